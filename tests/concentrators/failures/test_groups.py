"""The counts by meter and kind are right after whatever happens to failures, and explain all kinds."""

import random
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest

from concentrators.failures.explanations import explain
from concentrators.failures.kinds import FailureKind
from concentrators.ingest.reverification import verify_again
from concentrators.models import Acknowledgement, Concentrator, FailureGroup, IntegrityFailure
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from tests.concentrators.fleet import NOW, Device, commission, judged, verified
from tests.factories import IntegrityFailureFactory, MeterFactory

pytestmark = pytest.mark.django_db


def groups_counted() -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The groups as they follow from the failures, copies left out."""
    groups: dict[tuple[Any, ...], list[IntegrityFailure]] = defaultdict(list)
    for row in IntegrityFailure.objects.filter(is_copy=False):
        groups[row.kind, row.meter_id, None if row.meter_id else row.concentrator_id].append(row)
    return {
        key: (
            len(rows),
            sum(row.acknowledgement_id is None for row in rows),
            min(row.received_at for row in rows),
            max(row.received_at for row in rows),
        )
        for key, rows in groups.items()
    }


def groups_kept() -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The groups as they stand."""
    return {
        (group.kind, group.meter_id, group.concentrator_id): (group.failures, group.open, group.first_at, group.last_at)
        for group in FailureGroup.objects.all()
    }


def test_groups_follow_what_is_added_acknowledged_and_removed(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    choose = random.Random(4)
    meters = [*MeterFactory.create_batch(2), None]
    for _ in range(40):
        IntegrityFailureFactory.create(
            kind=choose.choice([FailureKind.MALFORMED, FailureKind.TAG_INVALID]),
            meter=choose.choice(meters),
            concentrator=choose.choice([concentrator, other_concentrator]),
            received_at=NOW - timedelta(minutes=choose.randrange(10_000)),
        )
    assert groups_kept() == groups_counted()
    assert len(groups_kept()) == 8
    for acknowledged, removed in ((0, 5), (10, 0), (0, 15), (10, 5)):
        ids = list(IntegrityFailure.objects.values_list("pk", flat=True))
        if acknowledged:
            note = Acknowledgement.objects.create(by="who", at=NOW, note="looked at")
            chosen = choose.sample(ids, acknowledged)
            IntegrityFailure.objects.filter(pk__in=chosen).update(acknowledgement=note)
        IntegrityFailure.objects.filter(pk__in=choose.sample(ids, removed)).delete()
        assert groups_kept() == groups_counted()
    IntegrityFailure.objects.all().delete()
    assert groups_kept() == {}


def test_a_group_of_a_meter_names_all_that_brought_its_frames(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    meter = MeterFactory.create()
    for brought_by in (concentrator, other_concentrator, concentrator):
        IntegrityFailureFactory.create(kind=FailureKind.TAG_INVALID, meter=meter, concentrator=brought_by)
    [group] = FailureGroup.objects.all()
    assert (group.concentrator, group.failures) == (None, 3)
    assert sorted(group.concentrators) == sorted([concentrator.pk, other_concentrator.pk])


def test_verification_counts_into_groups(concentrator: Concentrator) -> None:
    device = commission(1, concentrator)[0]
    frame = device.frame(0)
    judged(concentrator, [frame, frame[:-1] + bytes((frame[-1] ^ 1,)), b"garbage", b"more garbage"])
    assert groups_kept() == groups_counted()
    assert sorted((group.kind, group.failures) for group in FailureGroup.objects.all()) == [
        ("malformed", 2),
        ("tag_invalid", 1),
    ]


def test_frames_that_waited_leave_their_group_when_their_key_came(concentrator: Concentrator) -> None:
    meter = MeterFactory.create()
    device = Device(meter, b"k" * 32)
    uplink = verified(concentrator, [device.frame(0), device.frame(1), b"garbage"])
    assert [group.kind for group in FailureGroup.objects.order_by("kind")] == ["malformed", "unknown_device"]
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 10)])
    assert verify_again(uplink.pk).accepted == 2
    assert groups_kept() == groups_counted()
    assert [group.kind for group in FailureGroup.objects.all()] == ["malformed"]


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_is_explained(kind: FailureKind) -> None:
    explanation = explain(kind)
    assert explanation.meaning.endswith(".")
    assert len(explanation.causes) >= 2
    assert len(explanation.steps) >= 2
