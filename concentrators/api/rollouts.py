"""REST for operators: begin, watch and control rotation waves. Reading keys and rotating them are separate rights."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.api.selection import SelectionSerializer
from concentrators.commands import rollouts
from concentrators.commands.rollouts import AGE_MAX_DAYS, NUMBER_MAX, WaveError
from concentrators.models import RotationWave
from keyvault.audit.chain import web_actor
from keyvault.models import FleetKey
from keyvault.rights import ROTATE_DEVICE_KEYS
from keyvault.schemes.table import new_algorithm_choices, new_scheme_choices
from meters.api.serializers import NamedField

_LISTED = 100


class WaveSerializer(serializers.ModelSerializer[RotationWave]):
    """A wave and its progress."""

    wave = serializers.IntegerField(source="id")
    meters = serializers.SerializerMethodField()
    waiting = serializers.SerializerMethodField(help_text="meters without a command yet")
    commands = serializers.SerializerMethodField(help_text="key commands by state")
    fleet_key = serializers.CharField(
        source="fleet_key.name", default=None, allow_null=True, help_text="new keys are derived from it, unless null"
    )

    held_because = serializers.CharField(
        source="approval.reason",
        default=None,
        allow_null=True,
        help_text="the limit that it broke: a second person had to release it (held-commands), or must; else null",
    )
    held_number = serializers.IntegerField(
        source="approval_id", default=None, allow_null=True, help_text="of it among held-commands"
    )

    class Meta:
        model = RotationWave
        fields = (
            "wave",
            "name",
            "state",
            "rate_per_hour",
            "failure_budget",
            "algorithm",
            "scheme",
            "agreement_key",
            "fleet_key",
            "created_by",
            "created_at",
            "held_because",
            "held_number",
            "finished_at",
            "meters",
            "waiting",
            "commands",
        )

    def get_meters(self, wave: RotationWave) -> int:
        return self._progress(wave).meters

    def get_waiting(self, wave: RotationWave) -> int:
        return self._progress(wave).waiting

    def get_commands(self, wave: RotationWave) -> dict[str, int]:
        return self._progress(wave).states

    def _progress(self, wave: RotationWave) -> rollouts.RolloutProgress:
        known: dict[int, rollouts.RolloutProgress] = self.context["progress"]
        return known[wave.pk]


class NewWaveSerializer(SelectionSerializer):
    """The meters that get new keys (those that meet all given criteria), and the rate."""

    name = serializers.CharField(max_length=120)
    older_than_days = serializers.IntegerField(min_value=0, max_value=AGE_MAX_DAYS, required=False)
    compromised = serializers.BooleanField(default=False)
    derived_from = NamedField(
        slug_field="name", queryset=FleetKey.objects.all(), required=False, help_text="meters with keys derived from it"
    )
    rate_per_hour = serializers.IntegerField(min_value=1, max_value=NUMBER_MAX, default=1000)
    failure_budget = serializers.IntegerField(min_value=0, max_value=NUMBER_MAX, default=10)
    algorithm = serializers.ChoiceField(
        new_algorithm_choices(), required=False, help_text="of the new keys; else as the old one's"
    )
    scheme = serializers.ChoiceField(
        new_scheme_choices(), required=False, help_text="move the meters to this scheme; else each stays in its own"
    )
    agreement_key = serializers.CharField(
        required=False, max_length=100, help_text="name of that which new keys of sealed and agreed meters go with"
    )
    fleet_key = NamedField(
        slug_field="name",
        queryset=FleetKey.objects.all(),
        required=False,
        help_text="derive new keys from it; by default they are like the old ones",
    )


class MoveSerializer(serializers.Serializer[Any]):
    action = serializers.ChoiceField(["pause", "resume", "cancel"])
    failure_budget = serializers.IntegerField(
        min_value=0, max_value=NUMBER_MAX, required=False, help_text="only with resume: the new budget"
    )


class WaveList(generics.GenericAPIView[Any]):
    """Rotation waves."""

    queryset = RotationWave.objects.none()
    refusals = (WaveError,)
    rights = {"POST": [ROTATE_DEVICE_KEYS]}

    @extend_schema(operation_id="rotations", responses=WaveSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Rotation waves, the newest first."""
        return _answer(list(RotationWave.objects.select_related("fleet_key", "approval").order_by("-pk")[:_LISTED]))

    @extend_schema(operation_id="rotations_create", request=NewWaveSerializer, responses={201: WaveSerializer})
    def post(self, request: Request) -> Response:
        """Begin a wave; audited."""
        body = NewWaveSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        wave = rollouts.begin(
            asked["name"],
            body.selection(),
            web_actor(request),
            timezone.now(),
            asked["rate_per_hour"],
            asked["failure_budget"],
            asked.get("algorithm"),
            asked.get("fleet_key"),
            asked.get("scheme"),
            asked.get("agreement_key"),
        )
        return _answer(wave, status.HTTP_201_CREATED)


class WaveDetail(generics.GenericAPIView[Any]):
    """One rotation wave."""

    queryset = RotationWave.objects.none()
    refusals = (WaveError,)
    rights = {"PATCH": [ROTATE_DEVICE_KEYS]}

    @extend_schema(operation_id="rotation", responses=WaveSerializer)
    def get(self, request: Request, wave_id: int) -> Response:
        """The state of a wave."""
        return _answer(_wave(wave_id))

    @extend_schema(operation_id="rotation_move", request=MoveSerializer, responses=WaveSerializer)
    def patch(self, request: Request, wave_id: int) -> Response:
        """Pause, resume or cancel a wave; audited. Commands that a concentrator has fetched continue."""
        _wave(wave_id)
        body = MoveSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked, actor = body.validated_data, web_actor(request)
        if asked["action"] == "pause":
            return _answer(rollouts.pause(wave_id, actor))
        if asked["action"] == "resume":
            return _answer(rollouts.resume(wave_id, actor, asked.get("failure_budget")))
        return _answer(rollouts.cancel(wave_id, actor, timezone.now()))


def _answer(found: RotationWave | list[RotationWave], code: int = status.HTTP_200_OK) -> Response:
    many = isinstance(found, list)
    context = {"progress": rollouts.progresses(found if isinstance(found, list) else [found])}
    return Response(WaveSerializer(found, many=many, context=context).data, status=code)


def _wave(wave_id: int) -> RotationWave:
    wave = RotationWave.objects.filter(pk=wave_id).first()
    if wave is None:
        raise NotFound(f"There is no rotation wave {wave_id}.")
    return wave
