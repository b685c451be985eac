"""Tokens of programs that are limited to groups of meters: what they open, and that answers hold nothing else.

An address opens if it names one meter, which has to be in the groups now, or if its list can be restricted to groups.
A document of a place opens if the place is in them, or every meter that ever hung there: its curve is of all of them.
All others are refused to such a token.
"""

from typing import Any

from rest_framework import exceptions
from rest_framework.request import Request

from ami_headend.web.scopes import Program
from meters.group_models import FleetGroup, MeterInGroup, PlaceInGroup
from meters.models import Installation
from meters.registry import groups
from meters.registry.lookup import RegistryError, parse_system_title


def check(request: Request, view: Any, program: Program) -> None:
    """PermissionDenied, or NotFound for a meter in none of the groups, if a limited token may not come here."""
    if program.group_ids is None:
        return
    match: Any = request.resolver_match
    title = match.kwargs.get("system_title") if match else None
    if getattr(view, "is_of_place", False):
        if not _holds_place(program.group_ids, match.kwargs["pk"]):
            raise exceptions.NotFound(
                "No such place is in the groups of the token, with all the meters that hung there."
            )
        return
    if title is None and not _takes_groups(view):
        raise exceptions.PermissionDenied(
            "The token is limited to groups of meters, and what this address gives cannot be restricted to them."
        )
    if title is not None and not _holds(program.group_ids, title):
        raise exceptions.NotFound(f"No meter with system title {title} is in the groups of the token.")


def limit_of(request: Request) -> tuple[int, ...] | None:
    """Return the ids of the groups that a request is limited to; None if it is to none."""
    return request.user.group_ids if isinstance(request.user, Program) else None


def context(request: Request) -> dict[str, Any]:
    """Return what serializers need to know, so that a filter does not tell what there is outside of the groups."""
    return {"group_ids": limit_of(request)}


def restricted(request: Request, view: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Return query parameters, restricted to the groups of a limited token. PermissionDenied if none is left."""
    ids = limit_of(request)
    if ids is None or not _takes_groups(view):
        return asked
    own = list(FleetGroup.objects.filter(pk__in=ids))
    if not own:
        raise exceptions.PermissionDenied("The token does not open this: none of its groups is there any more.")
    return {**asked, "group": asked.get("group") or own}


def _takes_groups(view: Any) -> bool:
    if getattr(view, "mixes_groups", False):  # its rows tell of meters outside of a group as well
        return False
    return "group" in getattr(getattr(view, "query_class", None), "_declared_fields", {})


def _holds_place(group_ids: tuple[int, ...], place_id: int) -> bool:
    if PlaceInGroup.objects.filter(group__in=group_ids, place=place_id).exists():
        return True
    hung = set(Installation.objects.filter(place=place_id).values_list("meter", flat=True))
    return bool(hung) and hung == set(groups.meters_among(group_ids, hung))


def _holds(group_ids: tuple[int, ...], title: str) -> bool:
    try:
        octets = parse_system_title(title)
    except RegistryError:
        return False
    return MeterInGroup.objects.filter(group__in=group_ids, meter__system_title=octets).exists()
