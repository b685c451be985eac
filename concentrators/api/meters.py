"""REST: the list of meters, which can be filtered by their present concentrator."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.api.selection import ConcentratorField
from concentrators.fleet.assignments import holding
from meters.api.meters import MeterList
from meters.api.serializers import MeterSerializer, MetersQuery, page_of
from meters.models import Meter


class AssignedMetersQuery(MetersQuery):
    concentrator = ConcentratorField(required=False, help_text="meters assigned to it now")


class AssignedMeterList(MeterList):
    """Meters by serial number."""

    query_class = AssignedMetersQuery

    def found(self, asked: dict[str, Any]) -> QuerySet[Meter]:
        found = super().found(asked)
        if "concentrator" in asked:
            mine = holding(timezone.now()).filter(concentrator=asked["concentrator"])
            found = found.filter(pk__in=mine.values("meter"))
        return found

    @extend_schema(
        operation_id="meters", parameters=[AssignedMetersQuery], responses=page_of("MeterPage", MeterSerializer)
    )
    def get(self, request: Request) -> Response:
        return super().get(request)
