"""Concentrators by name, and the selection of meters that rotations and resends share."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Q, QuerySet
from rest_framework import serializers

from concentrators.fleet.selection import Selection
from concentrators.models import Assignment, Concentrator, ConcentratorInGroup
from meters.api.serializers import GroupsField, NamedField, SystemTitleField
from meters.registry.groups import of_meters

_METERS_MAX = 10_000


def visible(context: Mapping[str, Any]) -> QuerySet[Concentrator]:
    """Return the concentrators that a request may name: of a limited token, those that are in its groups, or ever had
    a meter that is.
    """
    limit, rows = context.get("group_ids"), Concentrator.objects.all()
    if limit is None:
        return rows
    member = ConcentratorInGroup.objects.filter(group__in=limit).values("concentrator")
    had = Assignment.objects.filter(of_meters(limit)).values("concentrator")
    return rows.filter(Q(pk__in=member) | Q(pk__in=had))


class ConcentratorField(NamedField):
    """A concentrator by its name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(slug_field="name", queryset=Concentrator.objects.all(), **options)

    def get_queryset(self) -> QuerySet[Concentrator]:
        return visible(self.context)


class SelectionSerializer(serializers.Serializer[Any]):
    """A selection of meters: those that meet all given criteria."""

    meters = serializers.ListField(
        child=SystemTitleField(), required=False, max_length=_METERS_MAX, help_text="system titles, 16 hex digits"
    )
    concentrator = ConcentratorField(required=False, help_text="its present meters")
    groups = GroupsField(required=False, help_text="meters that are in any of these groups now, or have the tag")
    everything = serializers.BooleanField(default=False)

    def selection(self) -> Selection:
        """Return the selection of a valid request."""
        asked = self.validated_data
        criteria = ("concentrator", "groups", "older_than_days", "compromised", "derived_from", "everything")
        return Selection(asked.get("meters"), **{name: asked[name] for name in criteria if name in asked})
