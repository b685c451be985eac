"""The REST doors of commands: concentrators fetch and acknowledge them, operators give and watch them."""

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
from concentrators.api.authentication import CommandThrottle, ReceiptThrottle, concentrator_id
from concentrators.api.concentrator_view import ConcentratorView
from concentrators.commands import downlink, operator
from concentrators.commands.capture_period import IntervalError
from concentrators.commands.operator import OperatorOrder
from concentrators.commands.queue import DownlinkError
from concentrators.models import Command, CommandKind
from keyvault.audit.chain import web_actor
from keyvault.device_keys.epochs import EpochError
from keyvault.rights import ROTATE_DEVICE_KEYS
from meters.api.meters import meter_of
from meters.api.serializers import NamedField, QuerySerializer
from meters.models import Register
from meters.readings.gaps import GapsError
from meters.readings.obis import RegisterKind
from meters.registry.interval_lengths import LONGEST_MINUTES

CBOR_SEQUENCE = "application/cbor-seq"
_GIVE, _CANCEL = "concentrators.add_command", "concentrators.delete_command"
_LISTED = 200
_RECEIPT_OCTETS_MAX = 512  # it needs some 30
_TAKES = {"resend": (("from", "to"), ("register",)), "set_interval": (("interval_minutes",), ("from",))}


class Fetched(exceptions.APIException):
    """What a concentrator has fetched may be with the meter already."""

    status_code = status.HTTP_409_CONFLICT
    default_detail = "A concentrator has fetched the command, or it has ended: it cannot be cancelled any more."


class CborSequenceRenderer(BaseRenderer):
    """Stands for the content type in negotiation; the view writes the octets itself."""

    media_type = CBOR_SEQUENCE
    format = "cbor-seq"
    charset = None
    render_style = "binary"


class LimitQuery(QuerySerializer):
    limit = serializers.IntegerField(min_value=1, max_value=downlink.OFFER_MAX, default=20)


class CommandsView(ConcentratorView):
    """Commands go out here."""

    throttle_classes = (CommandThrottle,)
    renderer_classes = (CborSequenceRenderer, JSONRenderer)  # JSON for problems alone
    query_class = LimitQuery

    @extend_schema(
        operation_id="commands", parameters=[LimitQuery], responses={(200, CBOR_SEQUENCE): OpenApiTypes.BINARY}
    )
    def get(self, request: Request) -> HttpResponse:
        """Commands to pass on, oldest first: a CBOR sequence (RFC 8742) of [number, system title, octets].

        A command that is not acknowledged comes again, octet for octet (a clock with another time).
        """
        query = self.query_class(data=request.query_params)
        query.is_valid(raise_exception=True)
        offers = downlink.offer(concentrator_id(request), query.validated_data["limit"], timezone.now())
        return HttpResponse(downlink.encode_offers(offers), content_type=CBOR_SEQUENCE)


class CommandReceiptSerializer(serializers.Serializer[Any]):
    """What became of a command at the concentrator; done is the meter's to say."""

    result = serializers.ChoiceField(["delivered", "failed"])


class CommandReceiptView(ConcentratorView):
    """A concentrator's word on a command that it fetched."""

    throttle_classes = (ReceiptThrottle,)

    def octets_max(self) -> int:
        return _RECEIPT_OCTETS_MAX

    @extend_schema(
        operation_id="command_receipt",
        request=CommandReceiptSerializer,
        responses={
            204: OpenApiResponse(description="Noted; the same again changes nothing."),
            404: OpenApiResponse(description="This concentrator has not fetched that command, or another has since."),
        },
    )
    def post(self, request: Request, number: int) -> Response:
        """Say that a command was passed on to its meter, or could not be: then it comes again soon."""
        body = CommandReceiptSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        delivered = body.validated_data["result"] == "delivered"
        if not downlink.receipt(concentrator_id(request), number, delivered=delivered, now=timezone.now()):
            raise NotFound(f"No command {number} was fetched by this concentrator, or another has fetched it since.")
        return Response(status=status.HTTP_204_NO_CONTENT)


class CommandSerializer(serializers.ModelSerializer[Command]):
    """A command and its state. Its octets are between concentrator and meter."""

    number = serializers.IntegerField(source="id")
    kind = serializers.SerializerMethodField()
    concentrator = serializers.CharField(
        source="offered_to.name", default=None, allow_null=True, help_text="that fetched it last; null before"
    )
    other_concentrator = serializers.CharField(
        source="offered_elsewhere_to.name",
        default=None,
        allow_null=True,
        help_text="another that fetched it, too; null where none did",
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

    ``resend`` takes from and to, and asks for each gap of the load profile between them. ``set_interval`` takes
    interval_minutes, and from: when intervals of both lengths begin; the first such time an hour ahead without it.
    """

    kind = serializers.ChoiceField([kind.name.lower() for kind in CommandKind])
    register = NamedField(
        slug_field="obis_code", queryset=Register.objects.filter(kind=RegisterKind.INTERVAL), required=False
    )
    start = serializers.DateTimeField(required=False)
    end = serializers.DateTimeField(required=False)
    interval_minutes = serializers.IntegerField(min_value=1, max_value=LONGEST_MINUTES, required=False)

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        return {{"start": "from", "end": "to"}.get(name, name): field for name, field in fields.items()}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        needed, optional = _TAKES.get(attrs["kind"], ((), ()))
        given = set(attrs) - {"kind"}
        if not set(needed) <= given <= {*needed, *optional}:
            raise ValidationError(
                "resend takes from and to (and register, if wanted), set_interval takes interval_minutes (and from,"
                " if wanted); the others take nothing."
            )
        return attrs

    def order(self) -> OperatorOrder:
        asked = dict(self.validated_data)
        kind, start, end = CommandKind[asked.pop("kind").upper()], asked.pop("from", None), asked.pop("to", None)
        return OperatorOrder(kind, start, end, **asked)


class MeterCommands(generics.GenericAPIView[Any]):
    """The commands of one meter."""

    queryset = Command.objects.none()
    refusals = (DownlinkError, IntervalError, EpochError, GapsError)
    rights: ClassVar[dict[str, list[str]]] = {"POST": []}  # by the kind of command

    @extend_schema(
        operation_id="meter_commands",
        parameters=[OpenApiParameter("system_title", str, OpenApiParameter.PATH, description="16 hex digits")],
        responses=CommandSerializer(many=True),
    )
    def get(self, request: Request, system_title: str) -> Response:
        """The newest commands of a meter, and how they stand."""
        rows = (
            Command.objects.filter(meter=meter_of(system_title))
            .select_related("offered_to", "offered_elsewhere_to")
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
        """Give a meter a command: audited. ``set_key`` begins a new key epoch, and takes the right to rotate keys."""
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
            204: OpenApiResponse(description="Cancelled; a key command's pending key with it."),
            409: OpenApiResponse(description="A concentrator has fetched it, or it has ended: it stays as it is."),
        },
    )
    def delete(self, request: Request, system_title: str, number: int) -> Response:
        """Cancel a command that no concentrator has fetched; audited. A key command takes the right to rotate keys."""
        _require_any(request, _CANCEL)
        command = Command.objects.filter(pk=number, meter=meter_of(system_title)).defer("octets").first()
        if command is None:
            raise NotFound(f"The meter has no command {number}.")
        _require(request, command.kind == CommandKind.SET_KEY, _CANCEL)
        if not operator.cancel(command, web_actor(request), timezone.now()):
            raise Fetched
        return Response(status=status.HTTP_204_NO_CONTENT)


def _require_any(request: Request, right: str) -> None:
    """Who has neither the right to this nor to rotate keys learns nothing of meters and commands."""
    if not (request.user.has_perm(right) or request.user.has_perm(ROTATE_DEVICE_KEYS)):
        raise PermissionDenied


def _require(request: Request, carries_key: bool, right: str) -> None:
    if not request.user.has_perm(ROTATE_DEVICE_KEYS if carries_key else right):
        raise PermissionDenied("You may not change keys." if carries_key else "You may change keys alone.")
    if carries_key:
        step_up.require(request)
