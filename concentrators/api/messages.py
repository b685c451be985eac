"""REST: messages of IEC 61968-9 with what follows in the feed, and with the readings or events of a period."""

from typing import Any, ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from concentrators.api.feed import ASK_AGAIN_S, gone
from concentrators.api.place_documents import XMLRenderer
from concentrators.feed import messages, subscriptions
from concentrators.feed.cursor import CursorError
from concentrators.feed.formats.profile import ProfileError
from concentrators.feed.pages import GoneError
from concentrators.feed.rows import Resource
from concentrators.feed.subscriptions import SubscriptionError
from meters.api.meters import ParameterView, event_selection
from meters.api.serializers import CursorField, EventsQuery, QuerySerializer, SelectionQuery, ids_of
from meters.models import MeterEvent, Reading
from meters.readings.queries import ReadingSelection, SelectionError
from meters.registry import access_record
from meters.registry.place_rights import may_see_places

_XML = {(200, XMLRenderer.media_type): OpenApiTypes.STR}
_SUBSCRIPTION: dict[str, Any] = {
    "required": False,
    "max_length": 60,
    "help_text": "the subscription whose profile is used; default: the usual profile (docs/formats.md)",
}


class FeedMessageQuery(QuerySerializer):
    cursor = serializers.CharField(
        required=False, max_length=200, help_text="Feed-Cursor of the previous message; without it, from the beginning"
    )
    subscription = serializers.CharField(**_SUBSCRIPTION)


class ReadingMessageQuery(SelectionQuery):
    subscription = serializers.CharField(**_SUBSCRIPTION)
    page_size = None  # type: ignore[assignment]  # the profile says how many


class EventMessageQuery(EventsQuery):
    subscription = serializers.CharField(**_SUBSCRIPTION)
    page_size = None  # type: ignore[assignment]


class FeedMessages(ParameterView):
    """One message with the rows after a cursor; 204 if nothing follows yet."""

    query_class = FeedMessageQuery
    renderer_classes = (XMLRenderer,)
    refusals = (SubscriptionError, ProfileError)
    resource: ClassVar[Resource]

    def answer(self, request: Request) -> HttpResponse:
        asked = self.parameters(request)
        profile = subscriptions.profile_of(asked.get("subscription"))
        access_record.note(request)
        try:
            found = messages.after(
                self.resource, asked.get("cursor"), profile, shows_places=may_see_places(request.user)
            )
        except CursorError as error:
            raise serializers.ValidationError({"cursor": [str(error)]}) from None
        except GoneError as error:
            return gone(request, self.resource, error)
        headers = {
            "Feed-Era": found.cursor.era,
            "Feed-Cursor": str(found.cursor),
            "Feed-Rows": str(found.rows),
            "Feed-At-End": str(found.at_end).lower(),
        }
        if found.at_end:
            headers["Retry-After"] = str(ASK_AGAIN_S)
        if found.octets is None:
            return HttpResponse(status=204, headers=headers)
        return HttpResponse(found.octets, content_type="application/xml; charset=utf-8", headers=headers)


_OF_FEED: dict[Any, Any] = {
    **_XML,
    204: OpenApiResponse(description="Nothing follows yet; the headers have the same cursor again"),
    410: OpenApiResponse(description="As of the feed: the cursor is of another era, or its rows are no longer kept"),
}


class FeedReadingMessages(FeedMessages):
    """Readings of the feed as `MeterReadings` of IEC 61968-9."""

    queryset = Reading.objects.none()
    resource = Resource.READINGS

    @extend_schema(
        operation_id="feed_reading_messages", tags=["feed"], parameters=[FeedMessageQuery], responses=_OF_FEED
    )
    def get(self, request: Request) -> HttpResponse:
        return self.answer(request)


class FeedEventMessages(FeedMessages):
    """Events of the feed as `EndDeviceEvents` of IEC 61968-9."""

    queryset = MeterEvent.objects.none()
    resource = Resource.EVENTS

    @extend_schema(operation_id="feed_event_messages", tags=["feed"], parameters=[FeedMessageQuery], responses=_OF_FEED)
    def get(self, request: Request) -> HttpResponse:
        return self.answer(request)


class PeriodMessages(ParameterView):
    """One message with rows of a period; the header `Link` leads to the next, until there is none."""

    renderer_classes = (XMLRenderer,)
    refusals = (SubscriptionError, ProfileError)

    def answer(self, request: Request, asked: dict[str, Any], selection: Any) -> HttpResponse:
        profile = subscriptions.profile_of(asked.get("subscription"))
        access_record.note(request, meters=asked.get("meter"))
        try:
            found = messages.of_period(selection, profile, timezone.now(), shows_places=may_see_places(request.user))
        except SelectionError as error:
            raise serializers.ValidationError({"from": [str(error)]}) from None
        answer = HttpResponse(found.octets, content_type="application/xml; charset=utf-8")
        if found.key is not None:
            following = self.next_page(request, CursorField().to_representation(found.key))
            answer["Link"] = f'<{following}>; rel="next"'
        return answer


class ReadingMessages(PeriodMessages):
    """Readings of a period as `MeterReadings` of IEC 61968-9."""

    queryset = Reading.objects.none()
    query_class = ReadingMessageQuery

    @extend_schema(operation_id="reading_messages", tags=["readings"], parameters=[ReadingMessageQuery], responses=_XML)
    def get(self, request: Request) -> HttpResponse:
        asked = self.parameters(request)
        chosen = asked.get("meter"), asked.get("register"), asked.get("cursor")
        return self.answer(
            request, asked, ReadingSelection(asked["from"], asked["to"], *chosen, ids_of(asked.get("group")))
        )


class EventMessages(PeriodMessages):
    """Events of a period as `EndDeviceEvents` of IEC 61968-9."""

    queryset = MeterEvent.objects.none()
    query_class = EventMessageQuery

    @extend_schema(operation_id="event_messages", tags=["events"], parameters=[EventMessageQuery], responses=_XML)
    def get(self, request: Request) -> HttpResponse:
        asked = self.parameters(request)
        return self.answer(request, asked, event_selection(asked))
