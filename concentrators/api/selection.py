"""The selection of meters that rotations and resends share."""

from typing import Any

from rest_framework import serializers

from concentrators.fleet.selection import Selection
from concentrators.models import Concentrator
from meters.api.serializers import GroupsField, NamedField, SystemTitleField

_METERS_MAX = 10_000


class SelectionSerializer(serializers.Serializer[Any]):
    """A selection of meters: those that meet all given criteria."""

    meters = serializers.ListField(
        child=SystemTitleField(), required=False, max_length=_METERS_MAX, help_text="system titles, 16 hex digits"
    )
    concentrator = NamedField(
        slug_field="name", queryset=Concentrator.objects.all(), required=False, help_text="its present meters"
    )
    groups = GroupsField(required=False, help_text="meters that are in any of these groups now, or have the tag")
    everything = serializers.BooleanField(default=False)

    def selection(self) -> Selection:
        """Return the selection of a valid request."""
        asked = self.validated_data
        criteria = ("concentrator", "groups", "older_than_days", "compromised", "derived_from", "everything")
        return Selection(asked.get("meters"), **{name: asked[name] for name in criteria if name in asked})
