"""REST: the feed of readings and events, and how far its consumers have come."""

import itertools
from functools import partial
from typing import Any, ClassVar

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import generics, serializers, status
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from ami_headend.web.problems import problem
from ami_headend.web.scopes import Program
from concentrators.feed import bodies, eras, gone, pages, subscriptions
from concentrators.feed.cursor import CursorError
from concentrators.feed.formats.profile import ProfileError
from concentrators.feed.pages import GoneError
from concentrators.feed.rows import Resource
from concentrators.feed.subscriptions import OwnerError, Standing, SubscriptionError
from concentrators.models import FeedSubscription
from keyvault.audit.chain import web_actor
from meters.api.meters import CSVRenderer, ParameterView, ParquetRenderer
from meters.api.serializers import GroupsField, QuerySerializer, ids_of
from meters.models import MeterEvent, Reading
from meters.registry import access_record, groups
from meters.registry.place_rights import may_see_places

LIMIT_DEFAULT, LIMIT_MAX = 10_000, 1_000_000
SUBSCRIPTION: dict[str, Any] = {
    "required": False,
    "max_length": 60,
    "help_text": "the subscription whose profile messages are written in; default: the usual one (docs/formats.md)",
}
ASK_AGAIN_S = 10  # an empty page: nothing new is likely to have a position before


class NDJSONRenderer(BaseRenderer):
    """Supplies the format for negotiation; the view itself streams."""

    media_type = "application/x-ndjson"
    format = "ndjson"
    charset = None


class CIMRenderer(BaseRenderer):
    """Messages of IEC 61968-9."""

    media_type = "application/xml"
    format = bodies.CIM
    charset = "utf-8"


class FeedQuery(QuerySerializer):
    cursor = serializers.CharField(
        required=False, max_length=200, help_text="Feed-Cursor of the previous page; without it, from the beginning"
    )
    group = GroupsField(required=False, help_text="of meters in any of these groups now; may be repeated")
    limit = serializers.IntegerField(default=LIMIT_DEFAULT, min_value=1, max_value=LIMIT_MAX, help_text="rows")
    subscription = serializers.CharField(**SUBSCRIPTION)


def _gone(request: Request, resource: Resource, error: GoneError) -> HttpResponse:
    """Answer 410: where to go on, what to discard, and what to read again elsewhere."""
    text, members = gone.told(resource, error)
    return problem(request, 410, text, members=members)


class FeedView(ParameterView):
    """Rows in the order in which they were committed, from a cursor on.

    At least once: store `Feed-Cursor` together with the rows of its page. An empty page has the same cursor again.
    """

    query_class = FeedQuery
    renderer_classes = (NDJSONRenderer, CSVRenderer, ParquetRenderer, CIMRenderer)
    resource: ClassVar[Resource]

    refusals = (SubscriptionError, ProfileError)

    def get(self, request: Request) -> HttpResponseBase:
        asked, form = self.parameters(request), request.accepted_renderer.format
        profile = subscriptions.profile_of(asked.get("subscription"))
        try:
            planned = bodies.plan(self.resource, asked.get("cursor"), asked["limit"], form, profile)
            access_record.note(request)
            only = partial(groups.meters_among, ids_of(asked["group"]) or []) if "group" in asked else None
            found = pages.batches(planned, shows_places=may_see_places(request.user), only=only)
            parts = bodies.written(planned, found, form, profile)
            rows = pages.count(planned, only)
            first = list(itertools.islice(parts, 1))  # an immediate error comes before status 200 is sent
        except CursorError as error:
            raise serializers.ValidationError({"cursor": [str(error)]}) from None
        except GoneError as error:
            return _gone(request, self.resource, error)
        headers = {
            **eras.headers(planned.cursor.era),
            "Feed-Cursor": str(planned.cursor),
            "Feed-Rows": str(rows),
            "Feed-At-End": str(planned.at_end).lower(),
        }
        if planned.at_end:
            headers["Retry-After"] = str(ASK_AGAIN_S)
        if form == bodies.CIM and not first:
            return HttpResponse(status=204, headers=headers)
        if form in ("csv", "parquet"):
            headers["Content-Disposition"] = f'attachment; filename="{self.resource}.{form}"'
        content_type = bodies.FORMS[form].media_type
        return StreamingHttpResponse(itertools.chain(first, parts), content_type=content_type, headers=headers)


_ROWS = {
    (200, NDJSONRenderer.media_type): OpenApiTypes.STR,
    (200, CSVRenderer.media_type): OpenApiTypes.STR,
    (200, ParquetRenderer.media_type): OpenApiTypes.BINARY,
    (200, CIMRenderer.media_type): OpenApiTypes.STR,
    204: OpenApiResponse(description="A page of `format=cim` without rows; the headers say where to go on"),
    410: OpenApiResponse(
        description="The head-end was restored from a backup, or rows are no longer kept: `resume` says where to "
        "go on, `discard_after` which positions to discard, `read_again` which times to read elsewhere"
    ),
}


def _header(name: str, kind: type, text: str) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.HEADER, description=text, response=[200, 204])


_ASKED: list[Any] = [
    FeedQuery,
    _header("Feed-Cursor", str, "where to go on; store it together with the rows"),
    _header("Feed-Era", str, "positions are valid within it, until the head-end is restored from a backup"),
    _header("Feed-Cell", str, "the cell that tells the rows, if this head-end is one of several"),
    _header("Feed-Rows", int, "rows of this answer"),
    _header("Feed-At-End", bool, "whether there is no more yet"),
    _header("Retry-After", int, "seconds until it is worth asking again; only at the end"),
]


class FeedReadings(FeedView):
    """Readings as they were verified, and corrections of their interval lengths."""

    queryset = Reading.objects.none()
    resource = Resource.READINGS

    @extend_schema(operation_id="feed_readings", parameters=_ASKED, responses=_ROWS)
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)


class FeedEvents(FeedView):
    """Events that meters reported of themselves, as they were verified."""

    queryset = MeterEvent.objects.none()
    resource = Resource.EVENTS

    @extend_schema(operation_id="feed_events", parameters=_ASKED, responses=_ROWS)
    def get(self, request: Request) -> HttpResponseBase:
        return super().get(request)


class SubscriptionSerializer(serializers.Serializer[Standing]):
    """How far a consumer has come, and what it has not taken yet."""

    name = serializers.CharField()
    resource = serializers.ChoiceField([one.value for one in Resource])
    cursor = serializers.CharField(help_text="after the last row that it has taken")
    account = serializers.CharField(help_text="who moved it last")
    created_at = serializers.DateTimeField()
    moved_at = serializers.DateTimeField()
    is_gone = serializers.BooleanField(help_text="its cursor cannot be followed: the feed answers 410 to it")
    positions = serializers.IntegerField(help_text="positions after it")
    rows = serializers.IntegerField(help_text="rows after it")
    lag_s = serializers.IntegerField(help_text="age of the oldest of them, in seconds")
    profile = serializers.DictField(help_text="how its messages of IEC 61968-9 are written (docs/formats.md)")
    is_delivered = serializers.SerializerMethodField(help_text="the head-end sends its rows, and moves its cursor")

    def get_is_delivered(self, standing: Standing) -> bool:
        return standing.delivery is not None


class SubscriptionCursorSerializer(serializers.Serializer[Any]):
    cursor = serializers.CharField(max_length=200, help_text="`Feed-Cursor` of the last page that was taken whole")
    profile = serializers.DictField(
        required=False, help_text="how its messages of IEC 61968-9 are written; default: as before"
    )


class SubscriptionList(generics.GenericAPIView[Any]):
    """All subscriptions by name."""

    queryset = FeedSubscription.objects.none()

    @extend_schema(operation_id="feed_subscriptions", responses=SubscriptionSerializer(many=True))
    def get(self, request: Request) -> Response:
        found: Any = subscriptions.standings(timezone.now())
        return Response(SubscriptionSerializer(found, many=True).data)


class SubscriptionDetail(generics.GenericAPIView[Any]):
    """How far one consumer has come."""

    queryset = FeedSubscription.objects.none()
    refusals = (SubscriptionError, ProfileError)

    @extend_schema(operation_id="feed_subscription", responses=SubscriptionSerializer)
    def get(self, request: Request, name: str) -> Response:
        return self._shown(name)

    @extend_schema(
        operation_id="feed_subscription_update",
        request=SubscriptionCursorSerializer,
        responses={200: SubscriptionSerializer},
    )
    def put(self, request: Request, name: str) -> Response:
        """Store how far a consumer has come; the first time, this makes the subscription (audited).

        A token may move only what it has made.
        """
        body = SubscriptionCursorSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        cursor, profile = body.validated_data["cursor"], body.validated_data.get("profile")
        is_program = isinstance(request.user, Program)
        try:
            subscriptions.keep(name, cursor, web_actor(request), timezone.now(), profile, only_own=is_program)
        except CursorError as error:
            raise serializers.ValidationError({"cursor": [str(error)]}) from None
        except OwnerError as error:
            raise PermissionDenied(str(error)) from None
        return self._shown(name)

    @extend_schema(operation_id="feed_subscription_delete", responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Delete a subscription that is not delivered: nothing is alerted any more when its consumer lags. Audited.

        A token may delete only what it has made.
        """
        try:
            is_deleted = subscriptions.delete(name, web_actor(request), only_own=isinstance(request.user, Program))
        except OwnerError as error:
            raise PermissionDenied(str(error)) from None
        if not is_deleted:
            raise NotFound(f"there is no subscription {name!r}")
        return Response(status=status.HTTP_204_NO_CONTENT)

    @staticmethod
    def _shown(name: str) -> Response:
        found = subscriptions.standings(timezone.now(), name)
        if not found:
            raise NotFound(f"there is no subscription {name!r}")
        return Response(SubscriptionSerializer(found[0]).data)
