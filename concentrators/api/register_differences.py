"""REST: where cumulative registers and intervals say different energies."""

from typing import Any

import pyarrow as pa
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from concentrators.validation import differences
from concentrators.validation.differences import DifferenceSelection
from meters.api.meters import SelectionView, page_responses
from meters.api.serializers import SelectionQuery, ids_of
from meters.models import Reading

_TIME = pa.timestamp("us", tz="UTC")


class DifferencesQuery(SelectionQuery):
    """Meters, interval registers, groups, a period that spans overlap, state, and a page."""

    state = serializers.ChoiceField(["open", "cleared"], required=False, help_text="open: it holds still")
    cursor_ids = 1


class DifferenceSerializer(serializers.Serializer[Any]):
    """A span in which a cumulative register advanced by another energy than its intervals add up to.

    Exact decimals in `unit`; `difference` is `advance` less `interval_sum`. `obis_code` is that of the intervals.
    """

    id = serializers.IntegerField()
    system_title = serializers.CharField()
    serial_number = serializers.CharField()
    obis_code = serializers.CharField()
    span_start = serializers.DateTimeField()
    span_end = serializers.DateTimeField()
    advance = serializers.CharField()
    interval_sum = serializers.CharField()
    difference = serializers.CharField()
    unit = serializers.CharField()
    found_at = serializers.DateTimeField()
    cleared_at = serializers.DateTimeField(allow_null=True, help_text="since when it holds no longer")


class DifferenceList(SelectionView):
    """Differences between registers and intervals, by the start of their span."""

    queryset = Reading.objects.none()
    query_class = DifferencesQuery
    query = staticmethod(differences.differences)
    filename = "register-differences"
    schema_of_rows = pa.schema(
        [
            ("id", pa.int64()),
            ("system_title", pa.string()),
            ("serial_number", pa.string()),
            ("obis_code", pa.string()),
            ("span_start", _TIME),
            ("span_end", _TIME),
            ("advance", pa.string()),
            ("interval_sum", pa.string()),
            ("difference", pa.string()),
            ("unit", pa.string()),
            ("found_at", _TIME),
            ("cleared_at", _TIME),
        ]
    )

    def selection(self, asked: dict[str, Any]) -> DifferenceSelection:
        state = asked.get("state")
        return DifferenceSelection(
            asked["from"],
            asked["to"],
            asked.get("meter"),
            asked.get("register"),
            asked.get("cursor"),
            ids_of(asked.get("group")),
            None if state is None else state == "open",
        )

    @extend_schema(
        operation_id="register_differences",
        tags=["readings"],
        parameters=[DifferencesQuery],
        responses=page_responses("RegisterDifferencePage", DifferenceSerializer),
    )
    def get(self, request: Request) -> Any:
        return super().get(request)
