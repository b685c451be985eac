"""REST for administrators: corrections of the head-end's own clock."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.ingest import clock_corrections
from concentrators.ingest.clock_corrections import ClockError, ClockRequest
from concentrators.models import ClockCorrection
from keyvault.audit.chain import web_actor

_LISTED = 200
_NAMES = {"start": "from", "end": "to"}


class ClockCorrectionSerializer(serializers.ModelSerializer[ClockCorrection]):
    """A span of times given by the head-end's clock itself, and by how many seconds they were too low."""

    first_uplink = serializers.IntegerField(
        min_value=1, max_value=2**63 - 1, required=False, help_text="earlier uplinks are not corrected"
    )

    class Meta:
        model = ClockCorrection
        fields = ("start", "end", "behind_s", "first_uplink", "note", "by", "at")
        read_only_fields = ("by", "at")

    def get_fields(self) -> dict[str, Any]:
        fields = {_NAMES.get(name, name): field for name, field in super().get_fields().items()}
        return fields | {name: serializers.DateTimeField(source=source) for source, name in _NAMES.items()}

    def wish(self) -> ClockRequest:
        asked = self.validated_data
        return ClockRequest(
            asked["start"], asked["end"], asked["behind_s"], asked["note"], asked.get("first_uplink", 0)
        )


class CorrectedSerializer(serializers.Serializer[Any]):
    """What the workers will judge again."""

    uplinks = serializers.IntegerField(help_text="uplinks with a corrected time of receipt")
    frames = serializers.IntegerField(help_text="frames that were ahead of the head-end's clock")


class ClockCorrections(generics.GenericAPIView[Any]):
    """Corrections of the head-end's own clock."""

    queryset = ClockCorrection.objects.none()
    refusals = (ClockError,)
    rights = {"GET": ["concentrators.view_uplink"], "POST": ["concentrators.correct_clock_uplink"]}

    @extend_schema(operation_id="clock_corrections", responses=ClockCorrectionSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Corrections of the head-end's clock, the newest first."""
        rows = ClockCorrection.objects.order_by("-pk")[:_LISTED]
        return Response(ClockCorrectionSerializer(rows, many=True).data)

    @extend_schema(
        operation_id="clock_corrections_create",
        request=ClockCorrectionSerializer,
        responses={201: CorrectedSerializer},
    )
    def post(self, request: Request) -> Response:
        """State that the head-end's clock was behind: frames that were ahead of it are judged again; audited."""
        body = ClockCorrectionSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        found = clock_corrections.correct(body.wish(), web_actor(request), timezone.now())
        return Response(CorrectedSerializer(found).data, status=status.HTTP_201_CREATED)
