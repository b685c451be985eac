"""REST: meters that said their power went, by concentrator, and the check who has power again."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.commands import status_check
from concentrators.commands.queue import DownlinkError
from concentrators.fleet import outages
from concentrators.models import Concentrator
from keyvault.audit.chain import web_actor
from meters.api.serializers import NamedField
from meters.models import MeterEvent
from meters.registry import access_record, site_codes


class OutageSerializer(serializers.Serializer[Any]):
    """The meters of a concentrator that are out."""

    concentrator = serializers.CharField(source="name", help_text="empty: of meters without a concentrator")
    meters_out = serializers.IntegerField(source="out")
    meters = serializers.IntegerField(help_text="all of its meters")
    since = serializers.DateTimeField(help_text="when the first of them went")
    latest = serializers.DateTimeField(help_text="when the last of them went")


class NewCheckSerializer(serializers.Serializer[Any]):
    """Which meters that are out are asked; `confirm` is the number of meters that may be asked at most."""

    concentrator = NamedField(
        slug_field="name", queryset=Concentrator.objects.all(), required=False, help_text="default: all"
    )
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


class OutageList(generics.GenericAPIView[Any]):
    """Outages by concentrator."""

    queryset = MeterEvent.objects.none()
    rights = {"POST": ["concentrators.add_command"]}
    refusals = (DownlinkError,)

    @extend_schema(operation_id="outages", tags=["events"], responses=OutageSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Concentrators with meters that said that their power went, and nothing since; the most first."""
        access_record.note(request)
        return Response(OutageSerializer(outages.by_concentrator(site_codes.events(), timezone.now()), many=True).data)

    @extend_schema(operation_id="outages_check", tags=["events"], request=NewCheckSerializer, responses=CheckSerializer)
    def post(self, request: Request) -> Response:
        """Order a reading from meters that are out and were not heard since; audited."""
        body = NewCheckSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        concentrator, most = body.validated_data.get("concentrator"), body.validated_data["confirm"]
        concentrator_id = None if concentrator is None else concentrator.pk
        done = status_check.check(concentrator_id, web_actor(request), timezone.now(), most)
        return Response(CheckSerializer(done).data)
