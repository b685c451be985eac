"""REST for commands: concentrators fetch and acknowledge them, operators give and watch them."""

from typing import Any, ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import exceptions, generics, serializers, status
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from ami_headend.core import step_up
from concentrators.api.authentication import concentrator_id
from concentrators.api.concentrator_view import ConcentratorView
from concentrators.api.throttling import Rate
from concentrators.commands import downlink, operator
from concentrators.commands.capture_period import IntervalError
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import DownlinkError
from concentrators.conformance import offers as laboratory_offers
from concentrators.models import Command, CommandKind
from keyvault.audit.chain import web_actor
from keyvault.device_keys.agreement_keys import AgreementKeyError
from keyvault.device_keys.epochs import EpochError
from keyvault.rights import ROTATE_DEVICE_KEYS
from keyvault.schemes.table import SchemeError, new_algorithm_choices, new_scheme_choices
from meters.api.meters import meter_of
from meters.api.serializers import NamedField, QuerySerializer
from meters.models import Register
from meters.readings.gaps import GapsError
from meters.readings.obis import RegisterKind
from meters.registry.interval_lengths import LONGEST_MINUTES

CBOR_SEQUENCE = "application/cbor-seq"
_GIVE, _CANCEL = "concentrators.add_command", "concentrators.delete_command"
_LISTED = 200
_RECEIPT_OCTETS_MAX = 512  # a receipt needs some 30
_TAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "resend": (("from", "to"), ("register",)),
    "set_interval": (("interval_minutes",), ("from",)),
    "set_key": ((), ("scheme", "algorithm", "agreement_key")),
}


class Fetched(exceptions.APIException):
    """A command that a concentrator has fetched may be at the meter already."""

    status_code = status.HTTP_409_CONFLICT
    default_detail = "A concentrator has fetched the command, or it has ended, so it cannot be cancelled any more."


class CborSequenceRenderer(BaseRenderer):
    """Supplies the content type for negotiation; the view writes the octets itself."""

    media_type = CBOR_SEQUENCE
    format = "cbor-seq"
    charset = None
    render_style = "binary"


class LimitQuery(QuerySerializer):
    limit = serializers.IntegerField(min_value=1, max_value=downlink.OFFER_MAX, default=20)


class CommandsView(ConcentratorView):
    """Concentrators fetch commands here."""

    rate = Rate("command", "COMMAND_RATE")
    renderer_classes = (CborSequenceRenderer, JSONRenderer)  # JSON only for problems
    query_class = LimitQuery

    @extend_schema(
        operation_id="commands", parameters=[LimitQuery], responses={(200, CBOR_SEQUENCE): OpenApiTypes.BINARY}
    )
    def get(self, request: Request) -> HttpResponse:
        """Commands to pass on, oldest first: a CBOR sequence (RFC 8742) of [number, system title, octets].

        A command that is not acknowledged is offered again with the same octets (a set clock with another time).
        """
        query = self.query_class(data=request.query_params)
        query.is_valid(raise_exception=True)
        asking, limit, now = concentrator_id(request), query.validated_data["limit"], timezone.now()
        offers = downlink.offer(asking, limit, now)
        offers += laboratory_offers.fetch(asking, limit - len(offers), now)
        return HttpResponse(downlink.encode_offers(offers), content_type=CBOR_SEQUENCE)


class CommandReceiptSerializer(serializers.Serializer[Any]):
    """The outcome of a command at the concentrator; only the meter can prove that it is done."""

    result = serializers.ChoiceField(["delivered", "failed"])


class CommandReceiptView(ConcentratorView):
    """A concentrator's receipt for a command that it fetched."""

    rate = Rate("receipt", "RECEIPT_RATE")

    def octets_max(self) -> int:
        return _RECEIPT_OCTETS_MAX

    @extend_schema(
        operation_id="command_receipt",
        request=CommandReceiptSerializer,
        responses={
            204: OpenApiResponse(description="Recorded; a repeated receipt changes nothing."),
            404: OpenApiResponse(
                description="This concentrator has not fetched that command, or another one has fetched it since."
            ),
        },
    )
    def post(self, request: Request, number: int) -> Response:
        """Report that a command was passed on to its meter, or that it failed: then it is offered again soon."""
        body = CommandReceiptSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        delivered = body.validated_data["result"] == "delivered"
        asking, now = concentrator_id(request), timezone.now()
        known = downlink.receipt(asking, number, delivered=delivered, now=now)
        if not known and not laboratory_offers.receipt(asking, number, delivered=delivered, now=now):
            raise NotFound(
                f"No command {number} was fetched by this concentrator, or another one has fetched it since."
            )
        return Response(status=status.HTTP_204_NO_CONTENT)


class CommandSerializer(serializers.ModelSerializer[Command]):
    """A command and its state, without its octets, which only concentrator and meter need."""

    number = serializers.IntegerField(source="id")
    kind = serializers.SerializerMethodField()
    concentrator = serializers.CharField(
        source="offered_to.name",
        default=None,
        allow_null=True,
        help_text="the one that fetched it last; null before that",
    )
    other_concentrator = serializers.CharField(
        source="offered_elsewhere_to.name",
        default=None,
        allow_null=True,
        help_text="another one that fetched it too; null if none did",
    )
    held_number = serializers.IntegerField(
        source="approval_id", default=None, allow_null=True, help_text="of it among held-commands"
    )
    held_because = serializers.CharField(
        source="approval.reason",
        default=None,
        allow_null=True,
        help_text="the limit that it broke: a second person had to release it (held-commands), or must; else null",
    )

    class Meta:
        model = Command
        fields = (
            "number",
            "kind",
            "parameters",
            "state",
            "attempts",
            "concentrator",
            "other_concentrator",
            "failures",
            "failed_at",
            "late_answers",
            "created_by",
            "created_at",
            "held_because",
            "held_number",
            "next_attempt_at",
            "expires_at",
            "offered_at",
            "delivered_at",
            "ended_at",
        )

    def get_kind(self, command: Command) -> str:
        return CommandKind(command.kind).name.lower()


class NewCommandSerializer(serializers.Serializer[Any]):
    """A command to give.

    ``resend`` takes from and to, and orders each gap of the load profile between them. ``set_interval`` takes
    interval_minutes, and from: a time at which intervals of both lengths begin; by default the first one an hour ahead.
    ``set_key`` may take the scheme and algorithm of the new key, and the name of the agreement key that it goes with;
    by default they are as the last key's.
    """

    kind = serializers.ChoiceField([kind.name.lower() for kind in CommandKind])
    register = NamedField(
        slug_field="obis_code", queryset=Register.objects.filter(kind=RegisterKind.INTERVAL), required=False
    )
    start = serializers.DateTimeField(required=False)
    end = serializers.DateTimeField(required=False)
    interval_minutes = serializers.IntegerField(min_value=1, max_value=LONGEST_MINUTES, required=False)
    scheme = serializers.ChoiceField(new_scheme_choices(), required=False, help_text="of the new key")
    algorithm = serializers.ChoiceField(
        new_algorithm_choices(), required=False, help_text="COSE algorithm of the new key"
    )
    agreement_key = serializers.CharField(
        max_length=100, required=False, help_text="name of that which a new key of a sealed or agreed meter goes with"
    )

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        return {{"start": "from", "end": "to"}.get(name, name): field for name, field in fields.items()}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        needed, optional = _TAKES.get(attrs["kind"], ((), ()))
        given = set(attrs) - {"kind"}
        if not set(needed) <= given <= {*needed, *optional}:
            raise ValidationError(
                "resend takes from and to (and optionally register), set_interval takes interval_minutes (and "
                "optionally from), set_key optionally scheme, algorithm and agreement_key; the others take nothing."
            )
        return attrs

    def order(self) -> OperatorOrder:
        asked = dict(self.validated_data)
        kind, start, end = CommandKind[asked.pop("kind").upper()], asked.pop("from", None), asked.pop("to", None)
        return OperatorOrder(kind, start, end, **asked)


class MeterCommands(generics.GenericAPIView[Any]):
    """The commands of one meter."""

    queryset = Command.objects.none()
    refusals = (DownlinkError, IntervalError, EpochError, GapsError, SchemeError, AgreementKeyError)
    rights: ClassVar[dict[str, list[str]]] = {"POST": []}  # depends on the kind of command

    @extend_schema(
        operation_id="meter_commands",
        parameters=[OpenApiParameter("system_title", str, OpenApiParameter.PATH, description="16 hex digits")],
        responses=CommandSerializer(many=True),
    )
    def get(self, request: Request, system_title: str) -> Response:
        """The newest commands of a meter, with their states."""
        rows = (
            Command.objects.filter(meter=meter_of(system_title))
            .select_related("offered_to", "offered_elsewhere_to", "approval")
            .order_by("-pk")
        )
        return Response(CommandSerializer(rows.defer("octets")[:_LISTED], many=True).data)

    @extend_schema(
        operation_id="meter_commands_create",
        request=NewCommandSerializer,
        parameters=[OpenApiParameter("system_title", str, OpenApiParameter.PATH, description="16 hex digits")],
        responses={201: CommandSerializer(many=True)},
    )
    def post(self, request: Request, system_title: str) -> Response:
        """Give a meter a command; audited. ``set_key`` begins a new key epoch and needs the right to rotate keys.

        A command beyond the limits of the account or token is ``held``: no concentrator gets it until another person
        releases it.
        """
        _require_any(request, _GIVE)
        meter = meter_of(system_title)
        body = NewCommandSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        _require(request, body.validated_data["kind"] == "set_key", _GIVE)
        given = operator.give(meter, body.order(), web_actor(request), timezone.now())
        return Response(CommandSerializer(given, many=True).data, status=status.HTTP_201_CREATED)


class MeterCommand(generics.GenericAPIView[Any]):
    """One command of one meter."""

    queryset = Command.objects.none()
    rights: ClassVar[dict[str, list[str]]] = {"DELETE": []}

    @extend_schema(
        operation_id="meter_commands_cancel",
        parameters=[OpenApiParameter("system_title", str, OpenApiParameter.PATH, description="16 hex digits")],
        responses={
            204: OpenApiResponse(description="Cancelled; the pending key of a key command is withdrawn too."),
            409: OpenApiResponse(description="A concentrator has fetched it, or it has ended: nothing was changed."),
        },
    )
    def delete(self, request: Request, system_title: str, number: int) -> Response:
        """Cancel a command that no concentrator has fetched; audited. A key command needs the right to rotate keys."""
        _require_any(request, _CANCEL)
        command = Command.objects.filter(pk=number, meter=meter_of(system_title)).defer("octets").first()
        if command is None:
            raise NotFound(f"The meter has no command {number}.")
        _require(request, command.kind == CommandKind.SET_KEY, _CANCEL)
        if not operator.cancel(command, web_actor(request), timezone.now()):
            raise Fetched
        return Response(status=status.HTTP_204_NO_CONTENT)


def _require_any(request: Request, right: str) -> None:
    """Deny callers who have neither this right nor the right to rotate keys, before they see meters or commands."""
    if not (request.user.has_perm(right) or request.user.has_perm(ROTATE_DEVICE_KEYS)):
        raise PermissionDenied


def _require(request: Request, carries_key: bool, right: str) -> None:
    if not request.user.has_perm(ROTATE_DEVICE_KEYS if carries_key else right):
        raise PermissionDenied("You may not change keys." if carries_key else "You may change only keys.")
    if carries_key:
        step_up.require(request)
