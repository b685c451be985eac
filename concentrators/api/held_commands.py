"""REST for the second person: commands and waves beyond the limits of who gave them, to release or to refuse."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault import approvals, rights
from keyvault.approvals import ApprovalError, Person
from keyvault.audit.chain import web_actor
from keyvault.models import Approval

_LISTED = 200


class HeldCommandsSerializer(serializers.ModelSerializer[Approval]):
    """An act whose commands are held, or were."""

    number = serializers.IntegerField(source="id")
    state = serializers.SerializerMethodField(help_text="waiting, used (released), refused or expired")
    what = serializers.SerializerMethodField()
    kind = serializers.CharField(source="subject.kind")
    commands = serializers.IntegerField(source="subject.commands", help_text="of a wave: its meters")
    why = serializers.CharField(source="reason", help_text="the limit that it would break")
    released_by = serializers.CharField(source="approved_by")
    released_at = serializers.DateTimeField(source="approved_at", allow_null=True)

    class Meta:
        model = Approval
        fields = (
            "number",
            "state",
            "what",
            "kind",
            "commands",
            "why",
            "requested_by",
            "requested_at",
            "expires_at",
            "released_by",
            "released_at",
            "refused_by",
            "refused_at",
            "refusal",
        )

    def get_state(self, approval: Approval) -> str:
        return approvals.state(approval, timezone.now()).value

    def get_what(self, approval: Approval) -> str:
        return approvals.describe(approval)


class DecisionSerializer(serializers.Serializer[Any]):
    decision = serializers.ChoiceField(["release", "refuse"])
    reason = serializers.CharField(max_length=250, required=False, help_text="why it is refused")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["decision"] == "refuse" and not attrs.get("reason", "").strip():
            raise serializers.ValidationError({"reason": "Say why it is refused: whoever gave the commands reads it."})
        return attrs


class HeldCommandsList(generics.GenericAPIView[Any]):
    """Acts whose commands are held, or were."""

    queryset = Approval.objects.none()

    @extend_schema(operation_id="held_commands", responses=HeldCommandsSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What waits for a second person, and what was decided; the newest first."""
        rows = Approval.objects.filter(act=approvals.SEND_COMMANDS).order_by("-pk")[:_LISTED]
        return Response(HeldCommandsSerializer(rows, many=True).data)


class HeldCommands(generics.GenericAPIView[Any]):
    """One act whose commands are held, or were."""

    queryset = Approval.objects.none()
    rights = {"POST": [rights.DECIDE_APPROVALS]}
    refusals = (ApprovalError,)

    @extend_schema(operation_id="held_commands_one", responses=HeldCommandsSerializer)
    def get(self, request: Request, number: int) -> Response:
        """How it stands."""
        return Response(HeldCommandsSerializer(_row(number)).data)

    @extend_schema(operation_id="held_commands_decide", request=DecisionSerializer, responses=HeldCommandsSerializer)
    def post(self, request: Request, number: int) -> Response:
        """Release the commands of another person or program, or refuse them with a reason; audited."""
        _row(number)
        body = DecisionSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        person = Person(request.user, web_actor(request).source)  # type: ignore[arg-type]  # no token opens it
        now = timezone.now()
        if asked["decision"] == "release":
            approvals.approve(number, person, now)
        else:
            approvals.refuse(number, person, now, asked["reason"])
        return Response(HeldCommandsSerializer(_row(number)).data)


def _row(number: int) -> Approval:
    row = Approval.objects.filter(pk=number, act=approvals.SEND_COMMANDS).first()
    if row is None:
        raise NotFound(f"There are no held commands {number}.")
    return row
