"""REST: meters, their readings, events and gaps. Doors to the query functions."""

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
from django.db.models import Prefetch, QuerySet
from django.http import HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from meters import exports, queries
from meters.gaps import GapsError, gap_report
from meters.models import Installation, Meter, MeterEvent, Reading
from meters.queries import Selection, SelectionError
from meters.registry import RegistryError, find_meter
from meters.serializers import (
    CursorField,
    EventSerializer,
    EventsQuery,
    GapReportSerializer,
    GapsQuery,
    MeterSerializer,
    MetersQuery,
    PeriodQuery,
    QuerySerializer,
    ReadingSerializer,
    SelectionQuery,
    page_of,
)

T = TypeVar("T")
_TITLE = OpenApiParameter("system_title", str, OpenApiParameter.PATH, description="16 hex digits")


class CSVRenderer(BaseRenderer):
    """Stands for the format in negotiation; the view streams by itself."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"


class ParquetRenderer(BaseRenderer):
    media_type = "application/vnd.apache.parquet"
    format = "parquet"
    charset = None


class FormatNegotiation(DefaultContentNegotiation):
    """``?format=`` by an unknown name is the caller's mistake, not a page that is missing."""

    def filter_renderers(self, renderers: Any, format: str) -> Any:  # noqa: A002 - the name DRF calls it by
        found = [renderer for renderer in renderers if renderer.format == format]
        if not found:
            known = ", ".join(renderer.format for renderer in renderers)
            raise ValidationError({"format": [f"{format!r} is not one of {known}"]})
        return found


class ParameterView(generics.GenericAPIView[Any]):
    """A view over checked query parameters."""

    content_negotiation_class = FormatNegotiation
    query_class: type[QuerySerializer]

    def parameters(self, request: Request) -> dict[str, Any]:
        query = self.query_class(data=request.query_params)
        query.is_valid(raise_exception=True)
        return query.validated_data  # type: ignore[no-any-return]

    def next_page(self, request: Request, cursor: str) -> str:
        return replace_query_param(request.build_absolute_uri(), "cursor", cursor)


def _with_place() -> "Prefetch[Any, Any, Any]":
    standing = Installation.objects.filter(removed_at=None).select_related("place")
    return Prefetch("installations", standing, to_attr="standing")


class MeterList(ParameterView):
    """Meters by serial number."""

    queryset = Meter.objects.none()
    query_class = MetersQuery

    def found(self, asked: dict[str, Any]) -> QuerySet[Meter]:
        """The meters that are asked for."""
        return queries.meters(asked.get("search", ""), asked.get("status"))

    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        found = self.found(asked).order_by("serial_number")
        if "cursor" in asked:
            found = found.filter(serial_number__gt=asked["cursor"])
        shown = queries.with_length(found, timezone.now()).prefetch_related(_with_place())
        page = list(shown[: asked["page_size"]])
        full = len(page) == asked["page_size"]
        following = self.next_page(request, page[-1].serial_number) if full else None
        return Response({"next": following, "results": MeterSerializer(page, many=True).data})


class MeterDetail(generics.GenericAPIView[Any]):
    """One meter."""

    queryset = Meter.objects.none()

    @extend_schema(operation_id="meter", parameters=[_TITLE], responses=MeterSerializer)
    def get(self, request: Request, system_title: str) -> Response:
        meters = queries.with_length(Meter.objects.all(), timezone.now())
        meter = meters.prefetch_related(_with_place()).get(pk=_meter(system_title).pk)
        return Response(MeterSerializer(meter).data)


class MeterGaps(ParameterView):
    """Which expected intervals of a meter are missing."""

    queryset = Reading.objects.none()
    query_class = GapsQuery

    @extend_schema(operation_id="meter_gaps", parameters=[_TITLE, GapsQuery], responses=GapReportSerializer)
    def get(self, request: Request, system_title: str) -> Response:
        meter = _meter(system_title)
        asked = self.parameters(request)
        try:
            report = gap_report(meter, asked["register"], asked["from"], asked["to"], timezone.now())
        except GapsError as error:
            raise ValidationError({"from": [str(error)]}) from None
        return Response(GapReportSerializer(report).data)


def _meter(system_title: str) -> Meter:
    try:
        return find_meter(system_title)
    except RegistryError as error:
        raise NotFound(str(error)) from None


def _narrow(look: Callable[[], T]) -> T:
    """What was looked for; a 400 where it costs too much."""
    try:
        return look()
    except SelectionError as error:
        raise ValidationError({"from": [str(error)]}) from None


class SelectionView(ParameterView):
    """Rows by meter, register and period: JSON in pages, CSV and Parquet whole and streamed."""

    renderer_classes = (JSONRenderer, CSVRenderer, ParquetRenderer)
    query_class: type[PeriodQuery] = SelectionQuery
    query: Callable[[Any, int], tuple[list[Any], Any]]
    schema_of_rows: pa.Schema
    filename: str

    def selection(self, asked: dict[str, Any]) -> Any:
        return Selection(asked["from"], asked["to"], asked.get("meter"), asked.get("register"), asked.get("cursor"))

    def get(self, request: Request) -> HttpResponseBase:
        asked = self.parameters(request)
        selection = self.selection(asked)
        query = type(self).query
        chosen = request.accepted_renderer
        if chosen.format == "json":
            rows, key = _narrow(lambda: query(selection, asked["page_size"]))
            following = key and self.next_page(request, CursorField().to_representation(key))
            return Response({"next": following, "results": [row._asdict() for row in rows]})
        batches = queries.batches(query, selection, exports.BATCH)
        first = _narrow(lambda: list(itertools.islice(batches, 1)))  # what fails at once fails before 200 is answered
        stream = {"csv": exports.stream_csv, "parquet": exports.stream_parquet}[chosen.format]
        return StreamingHttpResponse(
            stream(self.schema_of_rows, itertools.chain(first, batches)),
            content_type=chosen.media_type,
            headers={"Content-Disposition": f'attachment; filename="{self.filename}.{chosen.format}"'},
        )


def page_responses(name: str, row: type[Any]) -> dict[Any, Any]:
    return {
        (200, "application/json"): page_of(name, row),
        (200, CSVRenderer.media_type): OpenApiTypes.STR,
        (200, ParquetRenderer.media_type): OpenApiTypes.BINARY,
    }


class ReadingList(SelectionView):
    """Readings in the order of their time."""

    queryset = Reading.objects.none()
    query = staticmethod(queries.readings)
    schema_of_rows = exports.READING_SCHEMA
    filename = "readings"

    @extend_schema(
        operation_id="readings", parameters=[SelectionQuery], responses=page_responses("ReadingPage", ReadingSerializer)
    )
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)


class EventList(SelectionView):
    """Meter events in the order of their time."""

    queryset = MeterEvent.objects.none()
    query_class = EventsQuery
    query = staticmethod(queries.events)
    schema_of_rows = exports.EVENT_SCHEMA
    filename = "events"

    @extend_schema(
        operation_id="events", parameters=[EventsQuery], responses=page_responses("EventPage", EventSerializer)
    )
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)
