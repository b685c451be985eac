"""A frame that the head-end cannot process, for real: it alone is parked, and costs no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.utils import timezone

from concentrators.models import IntegrityFailure, Uplink
from keyvault.models import DeviceKey
from meters.models import Reading
from tests.builders import senml_payload
from tests.concentrators.fleet import INTERVAL, Device
from tests.flows import site as sites
from tests.flows.site import assert_one_verdict_each, assert_readings, frames_of, readings_expected, wait_verified
from tests.flows.stack import Stack, wait_for

NOON = (timezone.now() - timedelta(days=200)).replace(hour=12, minute=0, second=0, microsecond=0)


@contextmanager
def without_partition(at: datetime) -> Iterator[None]:
    """The partition of a month is gone, as if an administrator had detached it."""
    name = f"meters_reading_{at:%Y_%m}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s", [name])
        ((bound,),) = cursor.fetchall()
        cursor.execute(f'ALTER TABLE meters_reading DETACH PARTITION "{name}"')
        yield
        cursor.execute(f'ALTER TABLE meters_reading ATTACH PARTITION "{name}" {bound}')


def test_reading_that_the_database_refuses(live_stack: Stack) -> None:
    site = sites.found(live_stack, 10)
    frames = frames_of(site.devices, range(10))
    culprit = site.devices[4].seal(senml_payload({INTERVAL: 5}, int(NOON.timestamp())), counter=50)
    with without_partition(NOON):
        uplink_id = site.posted([*frames[:61], culprit, *frames[61:]])
        for attempt in (1, 2, 3):
            wait_for(f"attempt {attempt}", Uplink.objects.filter(pk=uplink_id, attempts=attempt).exists)
            uplink = Uplink.objects.get(pk=uplink_id)
            assert (uplink.verified_at, uplink.last_error) == (None, "IntegrityError")
            assert uplink.due_at > datetime.now(UTC)  # the next attempt is put off
            assert_readings(site.devices, {})
            sites.make_due(uplink_id)
            live_stack.enqueue("sweep_uplinks")
        wait_verified([uplink_id])
    assert assert_one_verdict_each([uplink_id]) == {"accepted": 100, "parked": 1}
    evidence = IntegrityFailure.objects.get(uplink=uplink_id)
    assert (evidence.frame_index, bytes(evidence.frame)) == (61, culprit)
    assert_readings(site.devices, readings_expected(site.devices, range(10)))
    assert site.status(uplink_id)["rejected"] == 1

    # A parked frame keeps its counter: posted again once the cause is mended, it is accepted.
    again = site.posted([culprit])
    wait_verified([again])
    assert assert_one_verdict_each([again]) == {"accepted": 1}
    assert Reading.objects.get(captured_at=NOON).value == 5


def test_key_row_that_was_changed(live_stack: Stack) -> None:
    """One flipped bit in a wrapped key parks the frames of that device, at the first attempt, and no other's."""
    site = sites.found(live_stack, 6)
    tampered = site.devices[2].row()
    whole = bytes(tampered.wrapped or b"")
    DeviceKey.objects.filter(pk=tampered.pk).update(wrapped=whole[:40] + bytes((whole[40] ^ 1,)) + whole[41:])
    frames = frames_of(site.devices, range(5))
    uplink_id = site.posted(frames)
    wait_verified([uplink_id])
    assert assert_one_verdict_each([uplink_id]) == {"accepted": 25, "parked": 5}
    others = [device for device in site.devices if device is not site.devices[2]]
    assert_readings(site.devices, readings_expected(others, range(5)))

    DeviceKey.objects.filter(pk=tampered.pk).update(wrapped=whole)
    mended = live_stack.manage("verify_again", "--uplinks", str(uplink_id))
    assert mended.stdout.startswith("5 waiting frames of 1 uplink judged: 5 accepted"), mended.stderr
    again = site.posted(frames[::-1])
    wait_verified([again])
    assert assert_one_verdict_each([uplink_id, again]) == {"accepted": 30, "duplicate": 30}
    assert_readings(site.devices, readings_expected(site.devices, range(5)))


def test_keys_exchanged_between_rows_do_not_open(live_stack: Stack) -> None:
    """A wrapped key copied to another meter's row is not that meter's key."""
    site = sites.found(live_stack, 3)
    first, second = site.devices[0].row(), site.devices[1].row()
    DeviceKey.objects.filter(pk=second.pk).update(wrapped=first.wrapped)
    impostor = Device(site.devices[1].meter, site.devices[0].key)
    uplink_id = site.posted([impostor.frame(0), *frames_of(site.devices, range(1))])
    wait_verified([uplink_id])
    assert assert_one_verdict_each([uplink_id]) == {"accepted": 2, "parked": 2}
