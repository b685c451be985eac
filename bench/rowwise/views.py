"""One frame in each request: serializer, one query for each look-up, one save for each row, in one transaction."""

from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from rest_framework import exceptions, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from concentrators.api.authentication import BearerTokenAuthentication, IsConcentrator
from concentrators.models import Assignment, IntervalTotal
from keyvault import master_key
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import parse_frame
from keyvault.device_keys.key_rows import purpose_of
from keyvault.models import DeviceKey, InvocationCounter
from meters.models import Meter, Reading, Register
from meters.readings.senml import SenmlRecord, parse_pack


class FrameSerializer(serializers.Serializer[Any]):
    """A frame as hexadecimal text in JSON."""

    frame = serializers.RegexField(r"^([0-9a-f]{2})+$", max_length=2048)


class FrameView(APIView):
    """Verifies a frame in the request and stores its readings and totals."""

    authentication_classes = (BearerTokenAuthentication,)
    permission_classes = (IsConcentrator,)

    def post(self, request: Request) -> Response:
        serializer = FrameSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        frame = parse_frame(bytes.fromhex(serializer.validated_data["frame"]))
        title, epoch = frame.kid[:8], int.from_bytes(frame.kid[8:], "big")
        key = DeviceKey.objects.get(system_title=title, epoch=epoch, state="active", algorithm=frame.alg)
        meter = Meter.objects.get(system_title=title, status="commissioned")
        device_key = master_key.current().unwrap(bytes(key.wrapped or b""), purpose_of(epoch), title, epoch)
        plaintext = DirectionCipher(uplink_key(device_key, title, epoch, frame.alg), frame.alg).open_(frame)
        with transaction.atomic():
            counter = InvocationCounter.objects.select_for_update().get(key=key)
            if frame.counter <= counter.highest:
                raise exceptions.ValidationError("The counter was seen before.")
            counter.highest = frame.counter
            counter.heard_at = timezone.now()
            counter.heard_via = request.user.pk
            counter.save(update_fields=["highest", "heard_at", "heard_via"])
            for record in parse_pack(plaintext):
                _store(meter, record)
        return Response({"accepted": True}, status=status.HTTP_201_CREATED)


def _store(meter: Meter, record: SenmlRecord) -> None:
    register = Register.objects.get(obis_code=record.name)
    captured_at = datetime.fromtimestamp(record.time_s, UTC)
    minutes = meter.interval_minutes if register.kind == "interval" else 0
    Reading(
        captured_at=captured_at,
        meter_id=meter.pk,
        register_id=register.pk,
        value=int(record.value),
        uplink_id=0,
        interval_minutes=minutes,
    ).save(force_insert=True)
    if minutes:
        assignment = Assignment.objects.get(meter=meter, valid_from__lte=captured_at, valid_to=None)
        total, _ = IntervalTotal.objects.get_or_create(
            concentrator_id=assignment.concentrator_id,
            register=register,
            interval_minutes=minutes,
            interval_start=captured_at,
            defaults={"value_sum": 0, "meters_counted": 0},
        )
        IntervalTotal.objects.filter(pk=total.pk).update(
            value_sum=F("value_sum") + int(record.value), meters_counted=F("meters_counted") + 1
        )
