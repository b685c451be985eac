"""Bench meters: how they are made, where not, and what their concentrator alone may read."""

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts.models import Condition
from concentrators.fleet import tokens
from concentrators.models import Assignment, Concentrator
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import AuditRecord, DeviceKey
from meters.models import Meter
from tests.alerts.conftest import evaluated, only
from tests.concentrators import fleet
from tests.concentrators.fleet import Device
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
TITLE = "0024befffe804ff1"


@pytest.fixture(autouse=True)
def laboratory(settings: Settings) -> None:
    """A head-end that is nobody's production."""
    settings.IS_PRODUCTION = False


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create(name="LAB-1")


def made(capsys: pytest.CaptureFixture[str], *words: str, title: str = TITLE) -> dict[str, Any]:
    call_command("bench_meter", title, "--concentrator", "LAB-1", "--json", *words)
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def bench(capsys: pytest.CaptureFixture[str]) -> Device:
    told = made(capsys, "--interval", "30")
    return Device(Meter.objects.get(is_laboratory=True), bytes.fromhex(told["device_key"]))


class TestMaking:
    def test_its_keys_are_those_that_were_shown(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        told = made(capsys, "--scheme", "session")
        meter = Meter.objects.get(system_title=bytes.fromhex(TITLE))
        assert (meter.is_laboratory, meter.interval_minutes) == (True, 15)
        assert Assignment.objects.get(meter=meter).concentrator == concentrator
        rows = {row.epoch: row for row in DeviceKey.objects.filter(system_title=meter.system_title)}
        shown = {1: told["device_key"], 0: told["transfer_key"]}
        for epoch, key in shown.items():
            assert open_keys([rows[epoch].pk])[0].octets.hex() == key
        assert (rows[1].scheme, rows[1].algorithm, rows[0].algorithm) == ("session", 10, 10)
        record = AuditRecord.objects.filter(act="laboratory.bench_meter").get()
        assert TITLE in str(record.subject)
        assert not any(key in str(record.subject) for key in shown.values())

    def test_a_known_title_is_refused(self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]) -> None:
        made(capsys)
        with pytest.raises(CommandError, match="there is a meter 0024befffe804ff1 already"):
            made(capsys)
        assert Meter.objects.count() == 1

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["--scheme", "none"], "is not one of"),
            (["--interval", "0"], "1 to 1440"),
            (["--algorithm", "4"], "no keys"),
        ],
    )
    def test_bad_words_make_nothing(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str], words: list[str], why: str
    ) -> None:
        with pytest.raises(CommandError, match=why):
            made(capsys, *words)
        assert not Meter.objects.exists()

    @pytest.mark.parametrize(
        ("setting", "why"), [("IS_PRODUCTION", "production deployment"), ("REQUIRE_APPROVAL", "second person")]
    )
    def test_not_where_keys_are_protected_from_people(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str], settings: Settings, setting: str, why: str
    ) -> None:
        setattr(settings, setting, True)
        with pytest.raises(CommandError, match=why):
            made(capsys)
        assert not Meter.objects.exists()
        assert not DeviceKey.objects.exists()

    def test_sealed_comes_with_the_key_that_it_seals_to(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("agreement_key", "init", "hes-1")
        capsys.readouterr()
        assert len(made(capsys, "--scheme", "sealed")["head_end_public"]) == 64


class TestReasons:
    def asked(self, concentrator: Concentrator, number: int) -> Any:
        headers = {"Authorization": f"Bearer {tokens.issue(concentrator)}"}
        return Client().get(f"/api/v1/uplinks/{number}?reasons=1", headers=headers)

    def test_of_its_frames_and_of_what_is_no_meters(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        device = bench(capsys)
        frame = device.frame(0)
        uplink = fleet.verified(concentrator, [frame[:-1] + bytes((frame[-1] ^ 1,)), b"noise", frame], timezone.now())
        answer = self.asked(concentrator, uplink.pk)
        assert answer.status_code == 200
        reasons = answer.json()["reasons"]
        assert [(one["frame"], one["system_title"], one["kind"]) for one in reasons] == [
            (0, TITLE, "tag_invalid"),
            (1, None, "malformed"),
        ]
        assert "CBOR tag" in reasons[1]["detail"]
        plain = self.asked(concentrator, uplink.pk)
        assert plain.json()["rejected"] == 2

    def test_not_of_other_meters_beside_it(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bench(capsys)
        (other,) = fleet.commission(1, concentrator)
        uplink = fleet.verified(concentrator, [b"noise", other.seal(b"no senml")], timezone.now())
        assert self.asked(concentrator, uplink.pk).json()["reasons"] == []

    def test_a_concentrator_without_laboratory_meters_learns_nothing(self, concentrator: Concentrator) -> None:
        (other,) = fleet.commission(1, concentrator)
        uplink = fleet.verified(concentrator, [other.seal(b"no senml")], timezone.now())
        answer = self.asked(concentrator, uplink.pk)
        assert (answer.status_code, "payload" in answer.content.decode()) == (403, False)

    def test_without_asking_there_are_none(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        uplink = fleet.verified(concentrator, [bench(capsys).seal(b"no senml")], timezone.now())
        headers = {"Authorization": f"Bearer {tokens.issue(concentrator)}"}
        assert "reasons" not in Client().get(f"/api/v1/uplinks/{uplink.pk}", headers=headers).json()


class TestAlerts:
    @pytest.mark.parametrize("condition", [Condition.KIND_SEEN, Condition.FAILURE_RATE])
    def test_its_failures_raise_none(
        self, concentrator: Concentrator, capsys: pytest.CaptureFixture[str], condition: Condition
    ) -> None:
        of_kind = condition is Condition.KIND_SEEN
        rule = only(condition, **({"selector": "counter_reused"} if of_kind else {}))
        device, now = bench(capsys), timezone.now()

        def refused(wh: int) -> list[bytes]:
            return [device.frame(0, wh=wh + number, counter=5) for number in range(30)]

        fleet.judged(concentrator, refused(1), now)
        assert evaluated(rule) == []
        fleet.judged(ConcentratorFactory.create(), refused(100), now)
        assert len(evaluated(rule)) == 1, "what others post in its name is no experiment"
