"""REST: meters, their readings, events and gaps."""

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
from django.db.models import Prefetch, QuerySet
from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.utils.urls import replace_query_param

from ami_headend.web import group_limits
from keyvault.device_keys import schemes_in_use
from meters.api.serializers import (
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
    ids_of,
    page_of,
)
from meters.models import Installation, Meter, MeterEvent, Reading
from meters.readings import event_queries, export, queries
from meters.readings.event_queries import EventSelection
from meters.readings.gaps import GapsError, gap_report
from meters.readings.queries import ReadingSelection, SelectionError
from meters.registry import access_record
from meters.registry.lookup import RegistryError, find_meter
from meters.registry.place_rights import may_see_places

T = TypeVar("T")
TITLE = OpenApiParameter("system_title", str, OpenApiParameter.PATH, description="16 hex digits")


class CSVRenderer(BaseRenderer):
    """Supplies the format for negotiation; the view itself streams."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"


class ParquetRenderer(BaseRenderer):
    media_type = "application/vnd.apache.parquet"
    format = "parquet"
    charset = None


class ParameterView(generics.GenericAPIView[Any]):
    """A view with validated query parameters."""

    query_class: type[QuerySerializer]

    def parameters(self, request: Request) -> dict[str, Any]:
        query = self.query_class(data=request.query_params, context=group_limits.context(request))
        query.is_valid(raise_exception=True)
        return group_limits.restricted(request, self, query.validated_data)

    def next_page(self, request: Request, cursor: str) -> str:
        return replace_query_param(request.build_absolute_uri(), "cursor", cursor)

    def numbered_page(
        self, request: Request, rows: list[Any], serializer: type[BaseSerializer[Any]], asked: dict[str, Any]
    ) -> Response:
        """Return rows in order of their numbers, and the address of the next page if this one is full."""
        following = self.next_page(request, str(rows[-1].pk)) if len(rows) == asked["page_size"] else None
        return Response({"next": following, "results": serializer(rows, many=True).data})


def _described(meters: QuerySet[Meter], request: Request, *, is_list: bool) -> list[Meter]:
    """Return the meters, with their places if the user may see those."""
    meters = meters.annotate(scheme_in_use=schemes_in_use.of("system_title"))
    if not may_see_places(request.user):
        return list(meters)
    standing = Installation.objects.filter(removed_at=None).select_related("place")
    found: list[Any] = list(meters.prefetch_related(Prefetch("installations", standing, to_attr="standing")))
    for meter in found:
        meter.place_name = next((row.place.name for row in meter.standing), None)
    access_record.note(request, meters=None if is_list else [meter.pk for meter in found])
    return found


class MeterList(ParameterView):
    """Meters by serial number."""

    queryset = Meter.objects.none()
    query_class = MetersQuery

    def found(self, asked: dict[str, Any]) -> QuerySet[Meter]:
        """Return the meters that match the query."""
        return queries.meters(
            asked.get("search", ""), asked.get("status"), asked.get("scheme"), ids_of(asked.get("group"))
        )

    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        # Of groups in order of their ids, as they stand in a group's index: else a page would read a whole group.
        order = "pk" if "group" in asked else "serial_number"
        found = self.found(asked).order_by(order)
        if "cursor" in asked:
            found = found.filter(**{f"{order}__gt": end_of_page(asked["cursor"], order)})
        shown = queries.with_length(found, timezone.now())
        page = _described(shown[: asked["page_size"]], request, is_list=True)
        full = len(page) == asked["page_size"]
        following = self.next_page(request, str(getattr(page[-1], order))) if full else None
        return Response({"next": following, "results": MeterSerializer(page, many=True).data})


def end_of_page(cursor: str, order: str) -> str | int:
    """Return where a page ended, in order of ``pk`` or of a name; 400 for a cursor of another list."""
    if order != "pk":
        return cursor
    if not (cursor.isascii() and cursor.isdecimal() and int(cursor) < 2**31):
        raise ValidationError({"cursor": ["a cursor of another list: follow `next` unchanged"]})
    return int(cursor)


class MeterDetail(generics.GenericAPIView[Any]):
    """One meter."""

    queryset = Meter.objects.none()

    @extend_schema(operation_id="meter", parameters=[TITLE], responses=MeterSerializer)
    def get(self, request: Request, system_title: str) -> Response:
        found = queries.with_length(Meter.objects.filter(pk=meter_of(system_title).pk), timezone.now())
        (meter,) = _described(found, request, is_list=False)
        return Response(MeterSerializer(meter).data)


class MeterGaps(ParameterView):
    """The missing intervals of a meter."""

    queryset = Reading.objects.none()
    query_class = GapsQuery

    @extend_schema(operation_id="meter_gaps", parameters=[TITLE, GapsQuery], responses=GapReportSerializer)
    def get(self, request: Request, system_title: str) -> Response:
        meter = meter_of(system_title)
        asked = self.parameters(request)
        access_record.note(request, meters=[meter.pk])
        try:
            report = gap_report(meter, asked["register"], asked["from"], asked["to"], timezone.now())
        except GapsError as error:
            raise ValidationError({"from": [str(error)]}) from None
        return Response(GapReportSerializer(report).data)


def meter_of(system_title: str) -> Meter:
    """Return the meter that an address names; 404 if there is none."""
    try:
        return find_meter(system_title)
    except RegistryError as error:
        raise NotFound(str(error)) from None


def narrow(look: Callable[[], T]) -> T:
    """Run a query; 400 if it costs too much."""
    try:
        return look()
    except SelectionError as error:
        raise ValidationError({"from": [str(error)]}) from None


class SelectionView(ParameterView):
    """Rows by meter, register and period: JSON in pages; CSV and Parquet complete and streamed."""

    renderer_classes = (JSONRenderer, CSVRenderer, ParquetRenderer)
    query_class: type[PeriodQuery] = SelectionQuery
    query: Callable[[Any, int], tuple[list[Any], Any]]
    schema_of_rows: pa.Schema
    filename: str

    def note(self, request: Request, asked: dict[str, Any]) -> None:
        """Record whose data is shown: the requested meters, or all."""
        access_record.note(request, meters=asked.get("meter"))

    def selection(self, asked: dict[str, Any]) -> Any:
        return ReadingSelection(
            asked["from"],
            asked["to"],
            asked.get("meter"),
            asked.get("register"),
            asked.get("cursor"),
            ids_of(asked.get("group")),
        )

    def page(self, selection: Any, limit: int) -> tuple[list[Any], Any]:
        """Return the rows of one page, and the key of the next."""
        return type(self).query(selection, limit)

    def get(self, request: Request) -> HttpResponseBase:
        asked = self.parameters(request)
        selection = self.selection(asked)
        self.note(request, asked)
        query = type(self).query
        chosen = request.accepted_renderer
        if chosen.format == "json":
            rows, key = narrow(lambda: self.page(selection, asked["page_size"]))
            following = key and self.next_page(request, CursorField().to_representation(key))
            return Response({"next": following, "results": [row._asdict() for row in rows]})
        batches = queries.batches(query, selection, export.BATCH)
        first = narrow(lambda: list(itertools.islice(batches, 1)))  # an immediate error comes before status 200 is sent
        return export.file_answer(chosen.format, self.filename, self.schema_of_rows, itertools.chain(first, batches))


def page_responses(name: str, row: type[Any]) -> dict[Any, Any]:
    return {
        (200, "application/json"): page_of(name, row),
        (200, CSVRenderer.media_type): OpenApiTypes.STR,
        (200, ParquetRenderer.media_type): OpenApiTypes.BINARY,
    }


class ReadingList(SelectionView):
    """Readings in order of time.

    A page of `register` without `meter` may hold fewer rows than `page_size`, or none, before the end: follow `next`.
    """

    queryset = Reading.objects.none()
    query = staticmethod(queries.readings)
    schema_of_rows = export.READING_SCHEMA
    filename = "readings"

    def page(self, selection: Any, limit: int) -> tuple[list[Any], Any]:
        """Return a page that may be short, because only a limited number of readings is scanned."""
        return queries.readings_page(selection, limit)

    @extend_schema(
        operation_id="readings", parameters=[SelectionQuery], responses=page_responses("ReadingPage", ReadingSerializer)
    )
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)


def event_selection(asked: dict[str, Any]) -> EventSelection:
    """Return the selection of a valid query for events."""
    is_acknowledged = asked["is_acknowledged"]
    return EventSelection(
        asked["from"],
        asked["to"],
        asked.get("meter"),
        asked.get("register"),
        asked.get("cursor"),
        severity=asked.get("severity"),
        codes=asked.get("code"),
        is_open=None if is_acknowledged is None else not is_acknowledged,
        group_ids=ids_of(asked.get("group")),
    )


class EventList(SelectionView):
    """Meter events in order of time."""

    queryset = MeterEvent.objects.none()
    query_class = EventsQuery
    query = staticmethod(event_queries.events)
    schema_of_rows = export.EVENT_SCHEMA
    filename = "events"

    def selection(self, asked: dict[str, Any]) -> EventSelection:
        return event_selection(asked)

    @extend_schema(
        operation_id="events", parameters=[EventsQuery], responses=page_responses("EventPage", EventSerializer)
    )
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)
