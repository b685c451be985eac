"""REST for concentrators: posting uplinks, and their status."""

import time
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import exceptions, serializers, status
from rest_framework.generics import get_object_or_404
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators import tasks
from concentrators.api.authentication import concentrator_id
from concentrators.api.concentrator_view import ConcentratorView, TooLarge
from concentrators.api.throttling import Rate
from concentrators.conformance import offers as laboratory_offers
from concentrators.fleet import laboratory
from concentrators.ingest import backlog, fair_shares, reception
from concentrators.ingest.fair_shares import Share
from concentrators.models import Uplink
from meters.api.serializers import QuerySerializer

CBOR_SEQUENCE = "application/cbor-seq"
_BACKLOG_LOOK_S = 1.0
_BACKLOG_RETRY_AFTER_S = 10
_OCTETS_RETRY_AFTER_S = 300


class HexField(serializers.CharField):
    """Octets as hexadecimal digits."""

    def to_representation(self, value: Any) -> str:
        return bytes(value).hex()


class ReceiptSerializer(serializers.Serializer[reception.Receipt]):
    """Answered once the octets are committed."""

    uplink = serializers.IntegerField(source="uplink_id")
    sha256 = HexField(help_text="SHA-256 of the decoded body, 64 hex digits")
    frames = serializers.IntegerField()


class UplinkSerializer(serializers.ModelSerializer[Uplink]):
    """What a concentrator may know about its uplink: how many frames were rejected, but not why.

    Waiting frames are among the rejected ones. They may be accepted later, for example when a key or meter is added.
    """

    uplink = serializers.IntegerField(source="id")
    sha256 = HexField(help_text="SHA-256 of the decoded body, 64 hex digits")
    verified = serializers.SerializerMethodField()

    class Meta:
        model = Uplink
        fields = (
            "uplink",
            "received_at",
            "sha256",
            "frames",
            "verified",
            "accepted",
            "duplicate",
            "rejected",
            "waiting",
        )

    def get_verified(self, uplink: Uplink) -> bool:
        return uplink.verified_at is not None


class ReasonSerializer(serializers.Serializer[laboratory.Reason]):
    """Why a frame was rejected; only for concentrators of laboratory meters."""

    frame = serializers.IntegerField(help_text="its position in the uplink, from 0")
    system_title = serializers.CharField(allow_null=True, help_text="16 hex digits; null if it names no known meter")
    kind = serializers.CharField()
    detail = serializers.CharField()


class UplinkReasonsSerializer(UplinkSerializer):
    """With ``reasons=1``: why frames were rejected."""

    reasons = ReasonSerializer(many=True, required=False)

    class Meta(UplinkSerializer.Meta):
        fields = (*UplinkSerializer.Meta.fields, "reasons")  # type: ignore[assignment]  # one more than there


class ReasonsQuery(QuerySerializer):
    reasons = serializers.BooleanField(
        default=False, help_text="1: why frames were rejected, for concentrators of laboratory meters alone"
    )


class ShareSpent(exceptions.APIException):
    """The concentrator has used up its share and must wait; all others may post."""

    status_code = status.HTTP_429_TOO_MANY_REQUESTS

    def __init__(self, detail: str, wait: float) -> None:
        super().__init__(detail)
        self.wait = wait  # becomes Retry-After


class Busy(exceptions.APIException):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "Too many uplinks wait for verification. Keep the body and post it again later."
    wait = _BACKLOG_RETRY_AFTER_S  # becomes Retry-After


class CborSequenceParser(BaseParser):
    """Accepts the content type; the view reads the octets itself, within its limit."""

    media_type = CBOR_SEQUENCE

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        limit = settings.UPLINK_MAX_OCTETS
        body: bytes = stream.read(limit + 1)
        if len(body) > limit:
            raise TooLarge(f"The body has more than {limit} octets; post it in parts.")
        if len(body) < int(parser_context["request"].META["CONTENT_LENGTH"]):
            raise exceptions.ParseError("The body ended before its Content-Length: the connection broke.")
        return body


class UplinksView(ConcentratorView):
    """Concentrators post frames here."""

    rate = Rate("uplink", "UPLINK_RATE")
    parser_classes = (CborSequenceParser,)

    def octets_max(self) -> int:
        return int(settings.UPLINK_MAX_OCTETS)

    def too_long(self) -> str:
        return f"The body has more than {self.octets_max()} octets; post it in parts."

    @extend_schema(
        operation_id="uplinks_create",
        request={CBOR_SEQUENCE: OpenApiTypes.BINARY},
        parameters=[
            OpenApiParameter("Content-Encoding", str, OpenApiParameter.HEADER, enum=["gzip", "zstd", "identity"])
        ],
        responses={
            202: ReceiptSerializer,
            400: OpenApiResponse(description="Not a CBOR sequence of byte strings; nothing was stored."),
            413: OpenApiResponse(description="Too many octets or frames; nothing was stored."),
            429: OpenApiResponse(
                description="Too many uplinks (per minute, or waiting) or octets of a concentrator; see Retry-After."
            ),
            503: OpenApiResponse(description="Too many uplinks wait for verification in all; see Retry-After."),
        },
    )
    def post(self, request: Request) -> Response:
        """Post frames: a CBOR sequence (RFC 8742) of byte strings, one frame each. 202 means that they are
        committed.
        """
        _refuse_when_busy()
        share = fair_shares.look(concentrator_id(request), timezone.now())
        _refuse_beyond(share)
        if not isinstance(request.data, bytes):  # DRF gives an empty form for an empty body
            raise exceptions.ValidationError("The body is empty.")
        try:
            body = reception.decode(request.data, request.headers.get("Content-Encoding", ""))
            if laboratory_offers.is_lost(request.user):
                return Response(ReceiptSerializer(reception.lost(body)).data, status=status.HTTP_202_ACCEPTED)
            receipt = reception.receive(
                request.user.pk, body, timezone.now(), tasks.enqueue, comes_last=share.comes_last
            )
        except reception.UplinkTooLargeError as error:
            raise TooLarge(str(error)) from None
        except reception.UnknownEncodingError as error:
            raise _UnknownEncoding(str(error)) from None
        except reception.UplinkError as error:
            raise exceptions.ValidationError(str(error)) from None
        if receipt.is_again:
            laboratory_offers.posted_again(request.user.pk, receipt.uplink_id, timezone.now())
        return Response(ReceiptSerializer(receipt).data, status=status.HTTP_202_ACCEPTED)


class UplinkView(ConcentratorView):
    """The status of one uplink."""

    rate = Rate("uplink status", "UPLINK_STATUS_RATE")

    query_class = ReasonsQuery

    @extend_schema(
        operation_id="uplinks_retrieve",
        parameters=[ReasonsQuery],
        responses={
            200: UplinkReasonsSerializer,
            403: OpenApiResponse(description="Reasons are for the concentrators of laboratory meters."),
        },
    )
    def get(self, request: Request, uplink_id: int) -> Response:
        """The state of an uplink of this concentrator. Once ``verified`` is true, each frame has its verdict.

        The verdict of a frame among ``waiting`` is provisional: it is judged again once its reason may have passed.
        ``reasons=1`` shows why frames of laboratory meters were rejected, and only of these.
        """
        query = self.query_class(data=request.query_params)
        query.is_valid(raise_exception=True)
        uplink = get_object_or_404(Uplink.objects.defer("body"), pk=uplink_id, concentrator=request.user)
        if not query.validated_data["reasons"]:
            return Response(UplinkSerializer(uplink).data)
        try:
            reasons = laboratory.reasons(uplink, timezone.now())
        except laboratory.LaboratoryError as error:
            raise exceptions.PermissionDenied(str(error)) from None
        answer = UplinkSerializer(uplink).data | {"reasons": [ReasonSerializer(one).data for one in reasons]}
        return Response(answer)


class _UnknownEncoding(exceptions.APIException):
    status_code = status.HTTP_415_UNSUPPORTED_MEDIA_TYPE


class _BacklogLook:
    """Whether the backlog is over its limit; each process checks at most once a second."""

    def __init__(self) -> None:
        self._looked_at = -_BACKLOG_LOOK_S
        self._over = False

    def over(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= _BACKLOG_LOOK_S:
            self._looked_at = now
            self._over = backlog.is_over(settings.UPLINK_QUEUE_MAX)
        return self._over


_backlog = _BacklogLook()


def _refuse_when_busy() -> None:
    if _backlog.over():
        raise Busy


def _refuse_beyond(share: Share) -> None:
    """Raise 429 if more uplinks of this concentrator wait, or it has posted more octets, than its share."""
    if share.is_queue_spent:
        raise ShareSpent(
            f"{settings.UPLINK_QUEUE_SHARE} uplinks of this concentrator wait for verification, which is its share "
            "of the queue. Keep the body and post it again later.",
            _BACKLOG_RETRY_AFTER_S,
        )
    if share.are_octets_spent:
        raise ShareSpent(
            f"This concentrator has posted {settings.UPLINK_OCTETS_PER_HOUR} octets within an hour, which is its "
            "share. Keep the body and post it again later.",
            _OCTETS_RETRY_AFTER_S,
        )
