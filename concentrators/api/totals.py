"""REST: interval totals."""

from typing import Any

import pyarrow as pa
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from concentrators.api.selection import visible
from concentrators.fleet import groups
from concentrators.models import IntervalTotal
from concentrators.totals import queries
from concentrators.totals.queries import TotalSelection
from meters.api.meters import SelectionView, page_responses
from meters.api.serializers import SELECTION_MAX, GroupsField, PageQuery, ids_of


class TotalsQuery(PageQuery):
    """Concentrators by name, registers, a period of interval starts, and a page."""

    concentrator = serializers.ListField(
        child=serializers.CharField(max_length=120),
        required=False,
        max_length=SELECTION_MAX,
        help_text="name; may be repeated",
    )
    group = GroupsField(
        required=False, help_text="concentrators that are in any of these groups now; their meters as of each interval"
    )
    cursor_ids = 3

    def validate_concentrator(self, names: list[str]) -> list[int]:
        found = dict(visible(self.context).filter(name__in=names).values_list("name", "pk"))
        for name in names:
            if name not in found:
                raise serializers.ValidationError(f"there is no concentrator {name!r}")
        return list(found.values())


class TotalSerializer(serializers.Serializer[Any]):
    """The sum of one interval: value_sum x 10^scaler unit, over the meters assigned at its start."""

    concentrator = serializers.CharField()
    obis_code = serializers.CharField()
    interval_start = serializers.DateTimeField()
    interval_minutes = serializers.IntegerField()
    value_sum = serializers.IntegerField()
    scaler = serializers.IntegerField()
    unit = serializers.CharField()
    meters_counted = serializers.IntegerField()
    meters_masked = serializers.IntegerField(
        help_text="whose value arrived and is not in the sum: masked, or unauthenticated"
    )
    meters_expected = serializers.IntegerField()


class TotalList(SelectionView):
    """Totals per concentrator, register, interval length and interval, in order of time."""

    queryset = IntervalTotal.objects.none()
    query_class = TotalsQuery
    query = staticmethod(queries.totals)
    filename = "totals"
    schema_of_rows = pa.schema(
        [
            ("concentrator", pa.string()),
            ("obis_code", pa.string()),
            ("interval_start", pa.timestamp("us", tz="UTC")),
            ("interval_minutes", pa.int16()),
            ("value_sum", pa.decimal128(38, 0)),
            ("scaler", pa.int16()),
            ("unit", pa.string()),
            ("meters_counted", pa.int32()),
            ("meters_masked", pa.int32()),
            ("meters_expected", pa.int32()),
        ]
    )

    def note(self, request: Request, asked: dict[str, Any]) -> None:
        """Record nothing: sums over many households reveal nothing about one."""

    def selection(self, asked: dict[str, Any]) -> TotalSelection:
        chosen = asked.get("concentrator")
        if "group" in asked:
            of_groups = groups.concentrator_ids(ids_of(asked["group"]) or ())
            chosen = of_groups if chosen is None else sorted(set(chosen).intersection(of_groups))
        return TotalSelection(asked["from"], asked["to"], chosen, asked.get("register"), asked.get("cursor"))

    @extend_schema(
        operation_id="totals", parameters=[TotalsQuery], responses=page_responses("TotalPage", TotalSerializer)
    )
    def get(self, request: Request) -> Any:
        return super().get(request)
