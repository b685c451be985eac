"""Saved views of list pages: made, shared with a role, deleted; and what is left of one whose filters are gone."""

from collections.abc import Collection
from typing import Any, NamedTuple

from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import QueryDict

from ami_headend.models import SavedView
from keyvault.audit import chain
from keyvault.audit.chain import Actor

SHARE = "ami_headend.share_savedview"
_MOST = 30  # views of one account on one page
_QUERY_MAX = 2_000


class ViewError(ValueError):
    """A view that cannot be saved; the message says why."""


class Usable(NamedTuple):
    """The query of a view without what the page no longer has, and the names of what was left out."""

    query: str
    lost: list[str]


def of_page(user: Any, page: str) -> QuerySet[SavedView]:
    """Return the views of a page that an account sees, by name: its own, and those shared with its roles. One query."""
    mine = Q(owner=user) | Q(role__in=user.groups.all())
    return SavedView.objects.filter(mine, page=page).select_related("owner", "role").order_by("name", "pk").distinct()


def save(user: Any, page: str, name: str, query: str) -> SavedView:
    """Save filters and order under a name; ViewError."""
    if len(query) > _QUERY_MAX:
        raise ViewError(f"its filters are longer than {_QUERY_MAX:,} characters")
    if SavedView.objects.filter(owner=user, page=page).count() >= _MOST:
        raise ViewError(f"there are {_MOST} of yours on this page: delete one first")
    view = SavedView(owner=user, page=page, name=name, query=query)
    try:
        view.full_clean()
    except ValidationError as error:
        raise ViewError(" ".join(error.messages).rstrip(".")) from None
    view.save()
    return view


def share(view: SavedView, role: Group | None, actor: Actor) -> None:
    """Share a view with everybody who has a role, or with nobody any more; audited."""
    with transaction.atomic():
        view.role = role
        view.save(update_fields=["role"])
        subject = {"view": view.name, "page": view.page, "role": None if role is None else role.name}
        chain.record(actor, "saved_view.share", subject)


def usable(view: SavedView, known: Collection[str], orders: Collection[str] | None) -> Usable:
    """Return the query of a view with only the filters that the page knows, and an order that it has."""
    query = QueryDict(view.query, mutable=True)
    lost = [name for name in query if name not in known]
    for name in lost:
        del query[name]
    if orders is not None and query.get("sort", "").removeprefix("-") not in {"", *orders}:
        lost.append(f"the order by {query.pop('sort')[0][:40]}")
    return Usable(query.urlencode(), lost)
