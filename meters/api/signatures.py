"""REST: what a meter signed, for whoever verifies it without this head-end."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from meters.api.meters import TITLE, ParameterView, meter_of, narrow
from meters.api.serializers import CursorField, PageQuery, page_of
from meters.models import Reading
from meters.readings import signatures
from meters.readings.signatures import SignatureKey, SignatureSelection
from meters.registry import access_record


class SignaturesQuery(PageQuery):
    """Signatures by the latest time that they say, and by registers that they say something of."""

    cursor_ids = 3

    def validate_register(self, codes: list[str]) -> frozenset[str]:  # type: ignore[override]
        super().validate_register(codes)
        return frozenset(codes)


class SignedValueSerializer(serializers.Serializer[Any]):
    """A value that a signature says, in the unit that the meter wrote."""

    obis_code = serializers.CharField()
    captured_at = serializers.DateTimeField()
    value = serializers.SerializerMethodField("exact_value", help_text="decimal, exact")
    unit = serializers.CharField()

    def exact_value(self, one: signatures.SignedValue) -> str:
        return format(one.value, "f")


class SignatureSerializer(serializers.Serializer[Any]):
    """A signature over a pack of readings, under the coupon of that epoch and number."""

    captured_at = serializers.DateTimeField(help_text="the latest time that it says; of a refused pack, of its receipt")
    epoch = serializers.IntegerField()
    number = serializers.IntegerField(help_text="of the coupon, 0 to 2^32 - 1")
    uplink = serializers.IntegerField(help_text="number of its uplink")
    sign1 = serializers.SerializerMethodField(help_text="COSE_Sign1 with the pack, in hexadecimal")
    says = SignedValueSerializer(many=True, help_text="empty where the pack cannot be read")

    def get_sign1(self, row: signatures.SignatureRow) -> str:
        return row.octets.hex()


class MeterSignatures(ParameterView):
    """The signatures of a meter, oldest first: they prove its readings to third parties (docs/evidence.md).

    A page of `register` may hold fewer rows than `page_size`, or none, before the end: follow `next`.
    """

    queryset = Reading.objects.none()
    query_class = SignaturesQuery

    @extend_schema(
        operation_id="meter_signatures",
        parameters=[TITLE, SignaturesQuery],
        responses=page_of("SignaturePage", SignatureSerializer),
    )
    def get(self, request: Request, system_title: str) -> Response:
        meter = meter_of(system_title)
        asked = self.parameters(request)
        access_record.note(request, meters=[meter.pk])
        after = SignatureKey(*asked["cursor"]) if "cursor" in asked else None
        selection = SignatureSelection(meter.pk, asked["from"], asked["to"], asked.get("register"), after)
        rows, key = narrow(lambda: signatures.page(selection, asked["page_size"]))
        following = key and self.next_page(request, CursorField().to_representation(key))
        return Response({"next": following, "results": SignatureSerializer(rows, many=True).data})
