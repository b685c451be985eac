"""The push profiles of a run: registered, one of them once a frame waits for it, and retired."""

from pathlib import Path

import pytest

from concentrators.ingest import reverification
from concentrators.models import Concentrator, Uplink
from concentrators.simulator.factory import Factory
from concentrators.simulator.meter import Memory
from concentrators.simulator.packs import interval_payload
from concentrators.simulator.plan import Plan
from concentrators.simulator.push_registration import (
    LateProfile,
    StillWaitingError,
    register_forms,
    retire_forms,
)
from concentrators.simulator.spool import Spool
from keyvault.schemes.dlms.security import control_of
from meters.models import PushProfile
from meters.readings import push_profiles
from tests.concentrators.dlms_devices import key_set, meter_of
from tests.concentrators.fleet import NOW, judged

pytestmark = pytest.mark.django_db
START_S = int(NOW.timestamp()) // 3600 * 3600 - 86_400


@pytest.fixture
def plan() -> Plan:
    return Plan(
        run="0a0b0c0d",
        seed=5,
        meters=["one"],
        concentrators=1,
        interval_minutes=[60],
        start_s=START_S,
        end_s=START_S + 86_400,
        schemes=["dlms without tag"],
    )


def in_use() -> int:
    return PushProfile.objects.filter(retired_at=None).count()


def test_it_comes_when_a_frame_waits_for_it(
    plan: Plan, concentrator: Concentrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concentrators.simulator.push_registration._LOOK_EVERY_S", 0)
    register_forms(plan)
    at_first = in_use()
    assert not any(wrong for _, wrong in push_profiles.verify())
    factory, title, control = Factory(plan, bytes(32)), plan.system_title(0), control_of(plan.algorithm_of(0))
    key_set(title, factory.device_key(0), control)
    meter_of(title, concentrator)
    meter = factory.boot(0, Memory(0), START_S)
    spool = Spool(tmp_path)
    late = LateProfile(plan, spool)
    late.look()
    spool.set_facts(late_said=True)
    late.look()
    assert in_use() == at_first  # nothing waits yet

    assert judged(concentrator, [meter.seal(interval_payload(START_S, 5, 7))]) == {"unknown_profile": 1}
    late.look()
    assert in_use() == at_first + 1
    assert spool.fact("late_profile") == 1
    uplink = Uplink.objects.get()
    spool.hand_over([], [])
    spool.db().execute("INSERT INTO batches (concentrator, first_seq, last_seq, frames, verdicts, uplink)"
                       " VALUES (0, 0, 0, 1, '{\"accepted\": 1}', ?)", [uplink.pk])  # fmt: skip
    with pytest.raises(StillWaitingError, match="1 frame waits for a push profile"):
        late.wait_until_read(0, lambda: False)
    assert reverification.verify_again(uplink.pk).accepted == 1
    late.wait_until_read(0, lambda: False)
    retire_forms(plan)
    assert in_use() == 0
