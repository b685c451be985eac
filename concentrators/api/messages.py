"""REST: messages of IEC 61968-9 with the readings or events of a period."""

from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from concentrators.api.feed import SUBSCRIPTION
from concentrators.api.place_documents import XMLRenderer
from concentrators.feed import messages, subscriptions
from concentrators.feed.formats.profile import ProfileError
from concentrators.feed.subscriptions import SubscriptionError
from meters.api.meters import ParameterView, event_selection
from meters.api.serializers import CursorField, EventsQuery, SelectionQuery, ids_of
from meters.models import MeterEvent, Reading
from meters.readings.queries import ReadingSelection, SelectionError
from meters.registry import access_record
from meters.registry.place_rights import may_see_places

_XML = {(200, XMLRenderer.media_type): OpenApiTypes.STR}


class ReadingMessageQuery(SelectionQuery):
    subscription = serializers.CharField(**SUBSCRIPTION)
    page_size = None  # type: ignore[assignment]  # the profile says how many


class EventMessageQuery(EventsQuery):
    subscription = serializers.CharField(**SUBSCRIPTION)
    page_size = None  # type: ignore[assignment]


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
