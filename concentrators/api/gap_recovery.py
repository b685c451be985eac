"""REST for operators: order many meters to send missing intervals again."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.api.selection import SelectionSerializer
from concentrators.commands import gap_recovery
from concentrators.commands.queue import DownlinkError
from concentrators.models import Command
from keyvault.audit.chain import web_actor
from meters.api.serializers import NamedField
from meters.models import Register
from meters.readings.gaps import GapsError
from meters.readings.obis import LOAD_PROFILE, RegisterKind


class NewResendsSerializer(SelectionSerializer):
    """The meters (those that meet all given criteria) and the period."""

    register = NamedField(
        slug_field="obis_code",
        queryset=Register.objects.filter(kind=RegisterKind.INTERVAL),
        required=False,
        help_text=f"default: {LOAD_PROFILE}",
    )
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        return {{"start": "from", "end": "to"}.get(name, name): field for name, field in fields.items()}


class ResendsSerializer(serializers.Serializer[Any]):
    """What was found and ordered."""

    meters = serializers.IntegerField(help_text="meters that were checked")
    gaps = serializers.IntegerField()
    commands = serializers.IntegerField(help_text="queued; gaps that were ordered already make none")
    held = serializers.CharField(
        source="approval.reason", default=None, allow_null=True, help_text="why they wait for a second person, if so"
    )
    put_off = serializers.IntegerField(help_text="gaps beyond the daily limit of their meters")


class Resends(generics.GenericAPIView[Any]):
    """Missing intervals of many meters."""

    queryset = Command.objects.none()
    refusals = (DownlinkError, GapsError)

    @extend_schema(operation_id="resends", request=NewResendsSerializer, responses={201: ResendsSerializer})
    def post(self, request: Request) -> Response:
        """Order missing intervals between two times: one command for each gap, never two for the same; audited."""
        body = NewResendsSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        register = asked.get("register") or Register.objects.get(obis_code=LOAD_PROFILE)
        outcome = gap_recovery.ask(
            body.selection(), register, asked["from"], asked["to"], web_actor(request), timezone.now()
        )
        return Response(ResendsSerializer(outcome).data, status=status.HTTP_201_CREATED)
