"""REST for concentrators that hold keys: hop keys, their next key, reports of dropped frames; and lists of reports."""

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import exceptions, serializers, status
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.api.authentication import concentrator_id
from concentrators.api.commands import CBOR_SEQUENCE, CborSequenceRenderer
from concentrators.api.concentrator_view import ConcentratorView
from concentrators.api.throttling import Rate
from concentrators.fleet import concentrator_keys, hop_failures, hop_key_sets
from concentrators.fleet.hop_failures import (
    COUNT_MAX,
    ENTRIES_MAX,
    SAMPLES_MAX,
    HopFailureEntry,
    HopFailureError,
    HopFault,
)
from concentrators.models import Concentrator, FailureTally
from meters.api.meters import ParameterView
from meters.api.serializers import GroupsField, NamedField, OctetsField, PeriodQuery, SystemTitleField, ids_of
from meters.models import Meter

_BODY_OCTETS_MAX = 2 * 1024 * 1024
_LISTED_MAX = 10_000


class NoKey(exceptions.APIException):
    """Nothing can be sealed for the concentrator."""

    status_code = status.HTTP_409_CONFLICT


class HopKeysView(ConcentratorView):
    """Sends a concentrator its hop keys."""

    rate = Rate("hop keys", "HOP_RATE")
    renderer_classes = (CborSequenceRenderer, JSONRenderer)  # JSON only for problem details

    @extend_schema(
        operation_id="hop_keys",
        responses={
            (200, CBOR_SEQUENCE): OpenApiTypes.BINARY,
            409: OpenApiResponse(description="This concentrator has no system title, or no active key of its own."),
        },
    )
    def get(self, request: Request) -> HttpResponse:
        """Get all hop keys of the meters assigned here: a CBOR sequence of COSE_Encrypt0 under this concentrator's key.

        The octets stay the same until a key changes. The set is complete: forget keys that are not in it.
        """
        try:
            octets = hop_key_sets.sealed(concentrator_id(request), timezone.now())
        except hop_key_sets.NoKeyError as error:
            raise NoKey(str(error)) from None
        return HttpResponse(octets, content_type=CBOR_SEQUENCE)


class NextKeyView(ConcentratorView):
    """Sends a concentrator its own next key."""

    rate = Rate("next key", "HOP_RATE")
    renderer_classes = (CborSequenceRenderer, JSONRenderer)

    @extend_schema(
        operation_id="next_key",
        responses={
            (200, CBOR_SEQUENCE): OpenApiTypes.BINARY,
            204: OpenApiResponse(description="No key of this concentrator is pending."),
        },
    )
    def get(self, request: Request) -> HttpResponse:
        """Get the command with this concentrator's pending key, sealed under its transfer key.

        The first report under the new key activates it.
        """
        title = Concentrator.objects.values_list("system_title", flat=True).get(pk=concentrator_id(request))
        octets = None if title is None else concentrator_keys.next_key(bytes(title), timezone.now())
        if octets is None:
            return HttpResponse(status=status.HTTP_204_NO_CONTENT)
        return HttpResponse(octets, content_type=CBOR_SEQUENCE)


class HopFailureEntrySerializer(serializers.Serializer[Any]):
    """Frames of one meter that were dropped in one hour, for one reason."""

    system_title = SystemTitleField(help_text="16 hex digits")
    hour = serializers.DateTimeField(help_text="its beginning, a full hour of UTC")
    reason = serializers.ChoiceField([fault.value for fault in HopFault])
    frames = serializers.IntegerField(min_value=1, max_value=COUNT_MAX, help_text="in the whole hour so far")
    samples = serializers.ListField(
        child=OctetsField(), required=False, max_length=SAMPLES_MAX, help_text="some of the frames, in hex digits"
    )

    def validate_samples(self, samples: list[bytes]) -> list[bytes]:
        longest = settings.FRAME_MAX_OCTETS + 64  # a frame and its hop tag
        if any(len(sample) > longest for sample in samples):
            raise serializers.ValidationError(f"a frame has at most {longest} octets with its tag")
        return samples


class HopFailuresSerializer(serializers.Serializer[Any]):
    """A concentrator's report of dropped frames."""

    failures = serializers.ListField(child=HopFailureEntrySerializer(), min_length=1, max_length=ENTRIES_MAX)


class HopFailuresView(ConcentratorView):
    """Stores a concentrator's report of frames that it dropped on its local link."""

    rate = Rate("hop failures", "HOP_RATE")
    refusals = (HopFailureError,)

    def octets_max(self) -> int:
        return _BODY_OCTETS_MAX

    @extend_schema(
        operation_id="hop_failures_create",
        request=HopFailuresSerializer,
        responses={204: OpenApiResponse(description="Stored; repeating the report changes nothing.")},
    )
    def post(self, request: Request) -> Response:
        """Report how many frames of a meter were dropped in an hour. A count covers the hour so far."""
        body = HopFailuresSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        entries = [
            HopFailureEntry(
                one["system_title"], one["hour"], HopFault(one["reason"]), one["frames"], one.get("samples", ())
            )
            for one in body.validated_data["failures"]
        ]
        hop_failures.report(concentrator_id(request), entries, timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class HopFailuresQuery(PeriodQuery):
    """Filters reports by hours in [from, to), concentrator and meter."""

    concentrator = NamedField(slug_field="name", queryset=Concentrator.objects.all(), required=False)
    meter = SystemTitleField(required=False, help_text="system title")
    group = GroupsField(required=False, help_text="of meters in any of these groups now; may be repeated")
    limit = serializers.IntegerField(min_value=1, max_value=_LISTED_MAX, default=1_000)


class HopFailureSerializer(serializers.Serializer[Any]):
    """One count of dropped frames, which only the concentrator saw."""

    concentrator = serializers.CharField()
    meter = serializers.CharField(help_text="serial number")
    hour = serializers.DateTimeField()
    reason = serializers.CharField()
    frames = serializers.IntegerField()
    samples = serializers.SerializerMethodField()
    reported_at = serializers.DateTimeField()

    def get_samples(self, row: Any) -> list[str]:
        return [sample.hex() for sample in row.samples]


class HopFailureList(ParameterView):
    """Reports of dropped frames, newest hours first."""

    queryset = FailureTally.objects.none()
    query_class = HopFailuresQuery

    @extend_schema(
        operation_id="hop_failures", parameters=[HopFailuresQuery], responses=HopFailureSerializer(many=True)
    )
    def get(self, request: Request) -> Response:
        """Counts of dropped frames by meter and hour, as concentrators reported them."""
        query = HopFailuresQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        concentrator, title = asked.get("concentrator"), asked.get("meter")
        meter = None if title is None else Meter.objects.filter(system_title=title).first()
        if title is not None and meter is None:
            return Response([])
        rows = hop_failures.reported(
            asked["from"],
            asked["to"],
            asked["limit"],
            None if concentrator is None else concentrator.pk,
            None if meter is None else meter.pk,
            ids_of(asked.get("group")),
        )
        return Response(HopFailureSerializer(rows, many=True).data)
