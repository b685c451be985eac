"""The keys by which concentrators check hop tags: what is sealed, when anew, and that octets are given again."""

import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta

import cbor2
import pytest
from django.test import Client

from concentrators.fleet import hop_key_sets, tokens
from concentrators.fleet.assignments import assign, end
from concentrators.models import Assignment, Concentrator
from keyvault.cose.kdf import downlink_key, hop_key, hop_mac_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid, parse_frame
from keyvault.device_keys import hop_key_sealing, key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, DownlinkCounter, KeyState
from keyvault.schemes.dlms.security import algorithm_of
from tests.concentrators.fleet import NOW, Device, commission
from tests.concentrators.statements import Statements
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db
TITLE = bytes.fromhex("0024befffe00c001")
KEY = bytes(range(0x90, 0xB0))


@pytest.fixture
def holder() -> Concentrator:
    concentrator: Concentrator = ConcentratorFactory.create(system_title=TITLE)
    provisioning.provision_stored([NewKey(TITLE, 1, KEY, 10, "concentrator")])
    return concentrator


def opened(octets: bytes, epoch: int = 1) -> tuple[list[list[bytes | None]], list[int]]:
    """The entries of all frames, and the counters, as the concentrator reads them."""
    cipher = DirectionCipher(downlink_key(KEY, TITLE, epoch, 30), 30)
    entries, counters = [], []
    while octets:
        length = len(cbor2.dumps(cbor2.loads(octets)))
        frame = parse_frame(octets[:length])
        assert (frame.kid, frame.alg) == (make_kid(TITLE, epoch), 30)
        entries += cbor2.loads(cipher.open_(frame))
        counters.append(frame.counter)
        octets = octets[length:]
    return entries, counters


def test_the_known_answer(monkeypatch: pytest.MonkeyPatch, holder: Concentrator) -> None:
    meter = MeterFactory.create(system_title=bytes.fromhex("0024befffe804ff1"))
    Assignment.objects.create(meter=meter, concentrator=holder, valid_from=NOW - timedelta(days=1))
    provisioning.provision_stored([NewKey(bytes(meter.system_title), 1, bytes(range(32)), 10, "hop")])
    monkeypatch.setattr(hop_key_sealing, "take_counters", lambda wanted, now: dict.fromkeys(wanted, 0x6955B90000))
    assert hop_key_sets.sealed(holder.pk, NOW).hex() == (
        "d08357a301181e044a0024befffe00c001000106456955b90000a0585e93401dbc0093f9eae6d58f7e4e24e4074cca4963eb7a3039eac3a8"
        "3b30749ef61111a5c1c399392fee66a8a43cd20a0f997342ccdb7c2dc3d5f38c01edb0b6aa9f03dd32e3599b38785fefedac0a329c7ef8aa"
        "e644ca2c791daf674faf07"
    )


def entry(device: Device, scheme: str) -> list[bytes | None]:
    mac = hop_mac_key(device.key, device.title, device.epoch, TITLE)
    if scheme != "hop":
        return [device.kid, mac, None, None]
    traffic = hop_key(device.key, device.title, device.epoch, device.alg, TITLE)
    return [device.kid, mac, traffic.key, traffic.base_iv]


def with_keys(holder: Concentrator, scheme: str, states: Sequence[KeyState], alg: int = 10) -> list[Device]:
    """A meter with an epoch in each state."""
    meter = MeterFactory.create()
    Assignment.objects.create(meter=meter, concentrator=holder, valid_from=NOW - timedelta(days=1))
    devices = [Device(meter, secrets.token_bytes(32), epoch, alg) for epoch in range(1, len(states) + 1)]
    for device, state in zip(devices, states, strict=True):
        provisioning.provision_pending([NewKey(device.title, device.epoch, device.key, alg, scheme)], {})
        if state is not KeyState.PENDING:
            key_rows.set_key_state([device.row().pk], state)
    return devices


def test_all_usable_epochs_are_in_it_and_aes_keys_of_hop_meters_alone(holder: Concentrator) -> None:
    states = [KeyState.COMPROMISED, KeyState.RETIRED, KeyState.RETIRING, KeyState.ACTIVE, KeyState.PENDING]
    hop = with_keys(holder, "hop", states, alg=11)
    plain = with_keys(holder, "ccm", states)
    provisioning.provision_stored([NewKey(hop[0].title, 0)])
    commission(1, ConcentratorFactory.create())
    wanted = [*(entry(one, "hop") for one in hop[2:]), *(entry(one, "ccm") for one in plain[2:])]
    entries, _ = opened(hop_key_sets.sealed(holder.pk, NOW))
    assert sorted(entries, key=lambda one: bytes(one[0] or b"")) == sorted(wanted, key=lambda one: bytes(one[0] or b""))


def test_the_same_octets_until_one_changes(holder: Concentrator) -> None:
    first, second = commission(2, holder)
    octets = hop_key_sets.sealed(holder.pk, NOW)
    assert hop_key_sets.sealed(holder.pk, NOW + timedelta(hours=1)) == octets
    assert DownlinkCounter.objects.get().last == 256 * int(NOW.timestamp())

    changes: list[Callable[[], object]] = [
        lambda: key_rows.set_key_state([first.row().pk], KeyState.COMPROMISED),
        lambda: provisioning.provision_pending([NewKey(second.title, 2)], {}),
        lambda: end([second.meter.pk], NOW - timedelta(minutes=1)),
        lambda: assign([(second.meter.pk, holder.pk)], NOW - timedelta(seconds=30)),
    ]
    counts = []
    for change in changes:
        change()
        after = hop_key_sets.sealed(holder.pk, NOW)
        assert after != octets
        octets = hop_key_sets.sealed(holder.pk, NOW)
        assert octets == after
        counts.append(len(opened(octets)[0]))
    assert counts == [1, 2, 0, 2]


def test_beyond_500_there_are_more_frames_each_under_its_own_counter(
    holder: Concentrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_key_sealing, "AT_A_TIME", 2)
    devices = commission(5, holder)
    entries, counters = opened(hop_key_sets.sealed(holder.pk, NOW))
    assert {bytes(one[0] or b"") for one in entries} == {device.kid for device in devices}
    assert counters == [counters[0], counters[0] + 1, counters[0] + 2]


def test_a_new_key_of_its_own_seals_anew(holder: Concentrator) -> None:
    commission(1, holder)
    before = hop_key_sets.sealed(holder.pk, NOW)
    key = DeviceKey.objects.get(system_title=TITLE)
    key_rows.set_key_state([key.pk], KeyState.RETIRING)
    provisioning.provision_stored([NewKey(TITLE, 2, KEY, 10, "concentrator")])
    entries, _ = opened(hop_key_sets.sealed(holder.pk, NOW), epoch=2)
    assert entries == opened(before)[0]  # derived for its title: the same


def test_the_number_of_queries_does_not_grow(holder: Concentrator, statements: Statements) -> None:
    seen = []
    for more in (1, 5):
        commission(more, holder)
        before = len(statements)
        hop_key_sets.sealed(holder.pk, NOW)
        seen.append(len(statements) - before)
    assert seen[0] == seen[1] <= 16


class TestDoor:
    def get(self, concentrator: Concentrator, path: str = "hop-keys") -> tuple[int, bytes, str]:
        answer = Client().get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {tokens.issue(concentrator)}"})
        return answer.status_code, answer.content, answer["Content-Type"] if answer.content else ""

    def test_a_concentrator_gets_its_own(self, holder: Concentrator) -> None:
        commission(1, holder)
        status, octets, kind = self.get(holder)
        assert (status, kind) == (200, "application/cbor-seq")
        assert len(opened(octets)[0]) == 1

    def test_without_a_key_it_is_a_problem(self, concentrator: Concentrator, holder: Concentrator) -> None:
        status, body, kind = self.get(concentrator)
        assert (status, kind) == (409, "application/problem+json")
        assert b"has no system title" in body
        key = DeviceKey.objects.get(system_title=TITLE)
        key_rows.set_key_state([key.pk], KeyState.COMPROMISED)
        assert b"has no active key" in self.get(holder)[1]

    def test_its_next_key(self, concentrator: Concentrator, holder: Concentrator) -> None:
        assert self.get(concentrator, "next-key")[0] == self.get(holder, "next-key")[0] == 204
        provisioning.provision_stored([NewKey(TITLE, 0, bytes(range(0x20, 0x40)))])
        provisioning.provision_pending([NewKey(TITLE, 2, KEY[::-1], 10, "concentrator")], {})
        status, octets, _ = self.get(holder, "next-key")
        assert status == 200
        cipher = DirectionCipher(downlink_key(bytes(range(0x20, 0x40)), TITLE, 0, 30), 30)
        assert cbor2.loads(cipher.open_(parse_frame(octets))) == [1, 2, 2, KEY[::-1], 10]


def test_a_key_whose_row_did_not_open_comes_once_it_does(holder: Concentrator) -> None:
    first, second = with_keys(holder, "ccm", [KeyState.RETIRING, KeyState.ACTIVE])
    row = DeviceKey.objects.filter(pk=first.row().pk)
    octets = bytes(row.get().wrapped or b"")
    row.update(wrapped=octets[:-1] + bytes([octets[-1] ^ 1]))
    assert opened(hop_key_sets.sealed(holder.pk, NOW))[0] == [entry(second, "ccm")]
    row.update(wrapped=octets)
    assert len(opened(hop_key_sets.sealed(holder.pk, NOW))[0]) == 2
    assert hop_key_sets.sealed(holder.pk, NOW) == hop_key_sets.sealed(holder.pk, NOW)


def test_key_sets_of_dlms_meters_are_left_out(holder: Concentrator) -> None:
    """Their frames wear no hop tag: a concentrator that had keys of such a title would drop them."""
    (device,) = with_keys(holder, "ccm", [KeyState.ACTIVE])
    meter = MeterFactory.create()
    Assignment.objects.create(meter=meter, concentrator=holder, valid_from=NOW - timedelta(days=1))
    provisioning.provision_stored([NewKey(bytes(meter.system_title), 1, None, algorithm_of(0x30), "dlms")])
    assert opened(hop_key_sets.sealed(holder.pk, NOW))[0] == [entry(device, "ccm")]
