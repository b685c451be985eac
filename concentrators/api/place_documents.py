"""REST: the load profiles of a place as documents of others: Green Button, and the Nordic market document."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from concentrators.feed import place_documents
from concentrators.feed.formats import nordic
from concentrators.feed.place_documents import Wanted
from concentrators.feed.place_series import PeriodError
from meters.api.meters import ParameterView
from meters.api.serializers import SELECTION_MAX, PeriodQuery
from meters.models import Place, Register
from meters.readings.obis import RegisterKind
from meters.registry import access_record
from meters.registry.place_rights import may_see_places

_SCHEMES, _ROLES = list(nordic.SCHEMES.items()), list(nordic.ROLES.items())


class AtomRenderer(BaseRenderer):
    """Supplies the format for negotiation; the view itself streams."""

    media_type = "application/atom+xml"
    format = "xml"
    charset = "utf-8"


class XMLRenderer(AtomRenderer):
    media_type = "application/xml"


class DocumentQuery(PeriodQuery):
    register = serializers.ListField(
        child=serializers.CharField(max_length=24),
        required=False,
        max_length=SELECTION_MAX,
        help_text="OBIS code of an interval register; may be repeated. Default: all of them",
    )

    def validate_register(self, codes: list[str]) -> list[Register]:
        known = {row.obis_code: row for row in Register.objects.filter(obis_code__in=codes, kind=RegisterKind.INTERVAL)}
        for code in codes:
            if code not in known:
                raise serializers.ValidationError(f"there is no interval register {code!r}")
        return [known[code] for code in sorted(known)]


class MarketDocumentQuery(DocumentQuery):
    sender = serializers.CharField(max_length=nordic.PARTY_LENGTH, help_text="identification of the sender")
    sender_scheme = serializers.ChoiceField(_SCHEMES, default="A10")
    sender_role = serializers.ChoiceField(_ROLES, default="MDR")
    receiver = serializers.CharField(max_length=nordic.PARTY_LENGTH, help_text="identification of the receiver")
    receiver_scheme = serializers.ChoiceField(_SCHEMES, default="A10")
    receiver_role = serializers.ChoiceField(_ROLES, default="DGL")
    metering_point = serializers.CharField(
        max_length=nordic.POINT_LENGTH, required=False, help_text="its identification; default: the name of the place"
    )
    metering_point_scheme = serializers.ChoiceField(_SCHEMES, default="A10")


class PlaceDocument(ParameterView):
    """A document about the intervals of one place."""

    queryset = Place.objects.none()
    is_of_place = True  # for tokens that are limited to groups
    rights = {"GET": ["meters.view_reading"]}
    query_class: type[DocumentQuery] = DocumentQuery
    renderer_classes: Sequence[type[BaseRenderer]] = (AtomRenderer,)
    refusals = (PeriodError,)

    def wanted(self, place: Place, asked: dict[str, Any]) -> Wanted:
        return Wanted(place, asked["from"], asked["to"], asked.get("register"))

    def place(self, pk: int) -> Place:
        """Return the place of the address, or 404; that its readings are seen is recorded."""
        found = get_object_or_404(Place, pk=pk)
        access_record.note(self.request, place=found.pk)
        return found

    def answer(self, parts: Iterable[bytes], name: str) -> HttpResponseBase:
        renderer = self.renderer_classes[0]
        return StreamingHttpResponse(
            parts,
            content_type=f"{renderer.media_type}; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}.xml"'},
        )


class GreenButton(PlaceDocument):
    """The load profiles of a place as Green Button (NAESB ESPI 4.0)."""

    @extend_schema(
        operation_id="place_green_button",
        parameters=[DocumentQuery],
        responses={(200, AtomRenderer.media_type): OpenApiTypes.STR},
    )
    def get(self, request: Request, pk: int) -> HttpResponseBase:
        """An Atom feed of the intervals that begin in [from, to); missing ones are left out."""
        asked, place = self.parameters(request), self.place(pk)
        title = place.name if may_see_places(request.user) else f"Place {place.pk}"
        address = request.build_absolute_uri()
        parts = place_documents.green_button_feed(self.wanted(place, asked), title, address, timezone.now())
        return self.answer(parts, f"green-button-{place.pk}")


class MarketDocument(PlaceDocument):
    """The load profiles of a place as NotifyValidatedMeasureData_MarketDocument (RSM-012)."""

    query_class = MarketDocumentQuery
    renderer_classes = (XMLRenderer,)

    @extend_schema(
        operation_id="place_market_document",
        parameters=[MarketDocumentQuery],
        responses={(200, XMLRenderer.media_type): OpenApiTypes.STR},
    )
    def get(self, request: Request, pk: int) -> HttpResponseBase:
        """A series for each register and length, with a point for each interval; missing ones have quality A02."""
        asked, place = self.parameters(request), self.place(pk)
        point = asked.get("metering_point") or self._name(place)
        sender, receiver = (
            nordic.Party(asked[name], asked[f"{name}_scheme"], asked[f"{name}_role"]) for name in ("sender", "receiver")
        )
        exchange = nordic.Exchange(sender, receiver, point, asked["metering_point_scheme"])
        parts = place_documents.market_document(self.wanted(place, asked), exchange, timezone.now())
        return self.answer(parts, f"measure-data-{place.pk}")

    def _name(self, place: Place) -> str:
        """Return the name of a place as the identification of its metering point; ValidationError if it cannot be."""
        if not may_see_places(self.request.user):
            raise serializers.ValidationError({"metering_point": ["say which: you may not see names of places"]})
        if len(place.name) > nordic.POINT_LENGTH:
            raise serializers.ValidationError(
                {"metering_point": [f"say which: the place's name has more than {nordic.POINT_LENGTH} characters"]}
            )
        return place.name
