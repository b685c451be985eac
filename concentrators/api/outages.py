"""REST: meters that said their power went, by concentrator, group and time, and the check who has power again."""

from typing import Any

from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from ami_headend.web import group_limits
from concentrators.api.selection import ConcentratorField
from concentrators.commands import status_check
from concentrators.commands.queue import DownlinkError
from concentrators.fleet import outage_history, outages
from concentrators.fleet.outage_history import MeterSpell, OutageSelection, PastOutage
from keyvault.audit.chain import web_actor
from meters.api.meters import ParameterView, SelectionView, page_responses
from meters.api.serializers import (
    PAGE_DEFAULT,
    PAGE_MAX,
    CursorField,
    GroupsField,
    PageQuery,
    PeriodQuery,
    QuerySerializer,
    ids_of,
)
from meters.models import MeterEvent
from meters.readings import export
from meters.registry import access_record, site_codes


class OutageSerializer(serializers.Serializer[Any]):
    """The meters of a concentrator that are out."""

    concentrator = serializers.CharField(source="name", help_text="empty: of meters without a concentrator")
    meters_out = serializers.IntegerField(source="out")
    meters = serializers.IntegerField(help_text="all of its meters; of chosen groups, those in them")
    since = serializers.DateTimeField(help_text="when the first of them went")
    latest = serializers.DateTimeField(help_text="when the last of them went")


class OutagesQuery(QuerySerializer):
    """Groups of the meters that are out."""

    group = GroupsField(required=False, help_text="of meters in any of these groups now; may be repeated")


class GroupOutageSerializer(serializers.Serializer[Any]):
    """The meters of a group that are out."""

    group = serializers.CharField(source="name")
    meters_out = serializers.IntegerField(source="out")
    meters = serializers.IntegerField(help_text="all of its meters")
    since = serializers.DateTimeField(help_text="when the first of them went")
    latest = serializers.DateTimeField(help_text="when the last of them went")


class PastOutagesQuery(PeriodQuery):
    """Outages that lasted at any time in [from, to), and a page."""

    concentrator = ConcentratorField(required=False)
    group = GroupsField(required=False, help_text="of meters in any of these groups now; may be repeated")
    page_size = serializers.IntegerField(
        default=PAGE_DEFAULT, min_value=1, max_value=PAGE_MAX, help_text="for JSON; CSV and Parquet are complete"
    )
    cursor = CursorField(required=False, help_text="from `next` of the previous page")
    cursor_ids = 1
    validate_cursor = PageQuery.validate_cursor


class PastOutageSerializer(serializers.Serializer[Any]):
    """An outage at a concentrator; an empty name is that of meters without one."""

    since = serializers.DateTimeField(help_text="when the first of its meters went")
    until = serializers.DateTimeField(allow_null=True, help_text="when the last was back, as far as they said")
    meters = serializers.IntegerField(help_text="how many of its meters were out")
    still_out = serializers.IntegerField(help_text="how many of them said nothing since")
    mean_s = serializers.IntegerField(allow_null=True, help_text="how long those that are back were out, seconds")
    concentrator = serializers.CharField()
    groups = serializers.CharField(help_text="of the concentrator, now; with | between them; a limited token's own")


class MeterOutageSerializer(serializers.Serializer[Any]):
    """An outage of one meter."""

    since = serializers.DateTimeField()
    until = serializers.DateTimeField(allow_null=True, help_text="its next event; null: there is none")
    is_told = serializers.BooleanField(allow_null=True, help_text="whether that event says that the power is back")
    serial_number = serializers.CharField()
    system_title = serializers.CharField()
    concentrator = serializers.CharField(help_text="when the outage ended; empty: it had none")


class NewCheckSerializer(serializers.Serializer[Any]):
    """Which meters that are out are asked; `confirm` is the number of meters that may be asked at most."""

    concentrator = ConcentratorField(required=False, help_text="default: all")
    group = GroupsField(required=False, help_text="of meters in any of these groups now; default: all")
    confirm = serializers.IntegerField(min_value=1, max_value=status_check.MOST)


class CheckSerializer(serializers.Serializer[Any]):
    """What a check did."""

    asked = serializers.IntegerField(help_text="meters that are ordered to read now")
    asked_before = serializers.IntegerField(help_text="meters that have such an order already")
    heard = serializers.IntegerField(help_text="meters that were heard since, and are not asked")
    cannot = serializers.IntegerField(help_text="meters that take no such order")
    held = serializers.CharField(
        source="approval.reason", default=None, allow_null=True, help_text="why they wait for a second person, if so"
    )
    left = serializers.IntegerField(help_text="meters for the next check")


class OutageList(ParameterView):
    """Outages by concentrator."""

    queryset = MeterEvent.objects.none()
    query_class = OutagesQuery
    rights = {"POST": ["concentrators.add_command"]}
    refusals = (DownlinkError,)

    @extend_schema(
        operation_id="outages", tags=["events"], parameters=[OutagesQuery], responses=OutageSerializer(many=True)
    )
    def get(self, request: Request) -> Response:
        """Concentrators with meters that said that their power went, and nothing since; the most first."""
        chosen = ids_of(self.parameters(request).get("group"))
        access_record.note(request)
        found = outages.by_concentrator(site_codes.events(), timezone.now(), None, chosen)
        return Response(OutageSerializer(found, many=True).data)

    @extend_schema(operation_id="outages_check", tags=["events"], request=NewCheckSerializer, responses=CheckSerializer)
    def post(self, request: Request) -> Response:
        """Order a reading from meters that are out and were not heard since; audited."""
        body = NewCheckSerializer(data=request.data, context=group_limits.context(request))
        body.is_valid(raise_exception=True)
        asked = group_limits.restricted(request, self, body.validated_data)
        concentrator_id = asked["concentrator"].pk if "concentrator" in asked else None
        actor, chosen = web_actor(request), ids_of(asked.get("group"))
        done = status_check.check(concentrator_id, actor, timezone.now(), asked["confirm"], chosen)
        return Response(CheckSerializer(done).data)


class GroupOutages(ParameterView):
    """Outages by group."""

    queryset = MeterEvent.objects.none()
    query_class = OutagesQuery

    @extend_schema(
        operation_id="outages_by_group",
        tags=["events"],
        parameters=[OutagesQuery],
        responses=GroupOutageSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        """Groups with meters that said that their power went, and nothing since; the most first."""
        chosen = ids_of(self.parameters(request).get("group"))
        access_record.note(request)
        found = outages.by_group(site_codes.events(), timezone.now(), chosen)
        return Response(GroupOutageSerializer(found, many=True).data)


class _PastList(SelectionView):
    queryset = MeterEvent.objects.none()
    query_class = PastOutagesQuery

    def note(self, request: Request, asked: dict[str, Any]) -> None:
        access_record.note(request)

    def selection(self, asked: dict[str, Any]) -> OutageSelection:
        at = [asked["concentrator"].pk] if "concentrator" in asked else None
        chosen, shown = ids_of(asked.get("group")), group_limits.limit_of(self.request)
        return OutageSelection(asked["from"], asked["to"], at, chosen, asked.get("cursor"), shown)


class PastOutages(_PastList):
    """Outages that lasted at any time of a period by concentrator, newest first; those that touch are one."""

    query = staticmethod(outage_history.past_outages)
    schema_of_rows = export.schema_of(PastOutage)
    filename = "outages"

    @extend_schema(
        operation_id="outages_past",
        tags=["events"],
        parameters=[PastOutagesQuery],
        responses=page_responses("PastOutagePage", PastOutageSerializer),
    )
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)


class MeterOutages(_PastList):
    """Outages that lasted at any time of a period meter by meter, newest first."""

    query = staticmethod(outage_history.meter_outages)
    schema_of_rows = export.schema_of(MeterSpell)
    filename = "meter-outages"

    @extend_schema(
        operation_id="outages_meters",
        tags=["events"],
        parameters=[PastOutagesQuery],
        responses=page_responses("MeterOutagePage", MeterOutageSerializer),
    )
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)
