"""Which meters a request is for: the fields that rotations and resends have in common."""

from typing import Any

from rest_framework import serializers

from concentrators.fleet.selection import Selection
from concentrators.models import Concentrator
from meters.api.serializers import NamedField, SystemTitleField

_METERS_MAX = 10_000


class SelectionSerializer(serializers.Serializer[Any]):
    """Which meters; they fit every criterion that is given."""

    meters = serializers.ListField(
        child=SystemTitleField(), required=False, max_length=_METERS_MAX, help_text="system titles, 16 hex digits"
    )
    concentrator = NamedField(
        slug_field="name", queryset=Concentrator.objects.all(), required=False, help_text="its meters of now"
    )
    everything = serializers.BooleanField(default=False)

    def selection(self) -> Selection:
        """What is asked for; to be called once it is valid."""
        asked = self.validated_data
        criteria = ("concentrator", "older_than_days", "compromised", "derived_from", "everything")
        return Selection(asked.get("meters"), **{name: asked[name] for name in criteria if name in asked})
