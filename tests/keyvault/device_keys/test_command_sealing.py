"""Sealing of commands: under which key, with which counter, and what never happens."""

from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from concentrators.models import Concentrator
from keyvault.audit.chain import Actor
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import parse_frame
from keyvault.device_keys import command_sealing, epochs, provisioning
from keyvault.device_keys.command_sealing import KeyCommand, PlainCommand
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, DownlinkCounter
from keyvault.schemes.table import SCHEMES
from meters.readings.obis import COMMAND_DONE
from tests.builders import KNOWN_KEY, KNOWN_TITLE
from tests.concentrators.fleet import Device, commission
from tests.concentrators.obedient import Receiver
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault.agreeing import agreement_key

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE = 256 * int(NOW.timestamp())
KNOWN_TRANSFER_KEY = bytes(range(32, 64))


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    (device,) = commission(1, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0)])
    return device


def read_now(device: Device, number: int) -> PlainCommand:
    return PlainCommand(number, device.title, (2, number))


def test_commands_go_under_the_active_epoch(device: Device) -> None:
    sealed = command_sealing.seal([read_now(device, 7)], NOW)
    assert Receiver.of(device).open(sealed[7].octets) == (1, BASE, [2, 7])
    assert (sealed[7].kid, sealed[7].counter) == (device.kid, BASE)


def test_keys_go_under_the_transfer_key_and_the_pending_key_protects_nothing_yet(device: Device) -> None:
    epochs.begin([device.title])
    sealed = command_sealing.seal([KeyCommand(8, device.title, 2), read_now(device, 9)], NOW)
    receiver = Receiver.of(device)
    epoch, _, fields = receiver.open(sealed[8].octets)
    assert (epoch, fields[:3], len(fields[3]), fields[4]) == (0, [1, 8, 2], 32, 10)
    assert receiver.open(sealed[9].octets)[0] == 1
    epochs.activate([DeviceKey.objects.get(system_title=device.title, epoch=2).pk], NOW)
    after = command_sealing.seal([read_now(device, 10)], NOW)
    renewed = receiver.renewed(sealed[8].octets)
    assert Receiver(renewed, b"").open(after[10].octets) == (2, BASE, [2, 10])


def test_a_command_is_for_one_device(concentrator: Concentrator) -> None:
    one, other = commission(2, concentrator)
    octets = command_sealing.seal([read_now(one, 1)], NOW)[1].octets
    with pytest.raises(TagInvalidError):
        Receiver(Device(one.meter, other.key), b"").open(octets)


def test_the_long_key_goes_with_the_long_alg(concentrator: Concentrator) -> None:
    (device,) = commission(1, concentrator, alg=11)
    sealed = command_sealing.seal([read_now(device, 1)], NOW)
    assert parse_frame(sealed[1].octets).alg == 31
    assert Receiver(device, b"").open(sealed[1].octets) == (1, BASE, [2, 1])


class TestCounters:
    def test_they_follow_the_clock_and_never_go_back(self, device: Device) -> None:
        def counters(count: int, at: datetime) -> list[int]:
            sealed = command_sealing.seal([read_now(device, n) for n in range(count)], at)
            return [sealed[n].counter for n in range(count)]

        assert counters(3, NOW) == [BASE, BASE + 1, BASE + 2]
        assert counters(2, NOW) == [BASE + 3, BASE + 4]
        later = NOW.replace(second=10)
        assert counters(1, later) == [BASE + 2560]
        assert counters(2, NOW) == [BASE + 2561, BASE + 2562]  # the clock was set back
        assert DownlinkCounter.objects.get().last == BASE + 2562

    def test_a_lost_row_repeats_none(self, device: Device) -> None:
        """An old backup knows nothing of the counters since: time has passed, and that is enough."""
        first = command_sealing.seal([read_now(device, 1)], NOW)[1].counter
        DownlinkCounter.objects.all().delete()
        assert command_sealing.seal([read_now(device, 1)], NOW.replace(second=1))[1].counter > first

    def test_each_key_has_its_own(self, device: Device) -> None:
        epochs.begin([device.title])
        sealed = command_sealing.seal([KeyCommand(1, device.title, 2), read_now(device, 2)], NOW)
        assert sealed[1].counter == sealed[2].counter == BASE


def test_what_has_no_key_now_is_left_out(device: Device) -> None:
    unknown = PlainCommand(1, bytes(8), (2, 1))
    not_begun = KeyCommand(2, device.title, 2)
    assert command_sealing.seal([unknown, not_begun], NOW) == {}
    epochs.begin([device.title])
    another_epoch = KeyCommand(3, device.title, 3)
    assert set(command_sealing.seal([another_epoch, KeyCommand(4, device.title, 2)], NOW)) == {4}


def test_a_row_that_was_changed_costs_its_device_only(concentrator: Concentrator, device: Device) -> None:
    (other,) = commission(1, concentrator)
    wrapped = DeviceKey.objects.get(system_title=other.title, epoch=1).wrapped
    DeviceKey.objects.filter(system_title=device.title, epoch=1).update(wrapped=wrapped)
    assert set(command_sealing.seal([read_now(device, 1), read_now(other, 2)], NOW)) == {2}


def test_a_compromised_epoch_never_protects_its_successor(device: Device) -> None:
    epochs.compromise([device.row().pk], Actor("tester", "test"))
    epochs.begin([device.title])
    sealed = command_sealing.seal([KeyCommand(1, device.title, 2), read_now(device, 2)], NOW)
    assert set(sealed) == {1}
    assert Receiver.of(device).open(sealed[1].octets)[0] == 0


def test_sealing_costs_the_same_for_any_number_of_commands(concentrator: Concentrator) -> None:
    costs = []
    for size in (2, 50):
        devices = commission(size, concentrator)
        provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
        epochs.begin([device.title for device in devices])
        with counting() as statements:
            both = [(KeyCommand(2 * n, d.title, 2), read_now(d, 2 * n + 1)) for n, d in enumerate(devices)]
            assert len(command_sealing.seal([command for pair in both for command in pair], NOW)) == 2 * size
        costs.append(len(statements))
    assert costs == [4, 4]  # keys, their octets, counters, and the journal's number


def known_device() -> Device:
    """The device of docs/frame.md, with its keys of both epochs in the vault."""
    device = Device(MeterFactory.create(system_title=KNOWN_TITLE), KNOWN_KEY)
    provisioning.provision_stored([NewKey(KNOWN_TITLE, 0, KNOWN_TRANSFER_KEY), NewKey(KNOWN_TITLE, 1, KNOWN_KEY)])
    provisioning.provision_pending([NewKey(KNOWN_TITLE, 2, bytes(range(64, 96)))], {})
    return device


# docs/frame.md, section 10: plaintext and frame of each command.
KNOWN_COMMANDS = {
    17: (
        "850111025820404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f0a",
        (
            "d08357a301181e044a0024befffe804ff1000006456955b90000a0583736e15a8ec1da7c33274d11a26d30373b3037685619e684"
            "b8822fd7c0674c137babd43c7bbbbddf7e414b525bc62b57017f389a5a26d869"
        ),
    ),
    18: (
        "820212",
        "d08357a301181e044a0024befffe804ff1000106456955b90000a053bdc5e566dd8bbc4b5bb84dc20a786cebd8a1e7",
    ),
    19: (
        "8403131a695467801a6955b900",
        (
            "d08357a301181e044a0024befffe804ff1000106456955b90001a0581d53a15a493088b0e8ee8929c7fd27e54e6a42495b0a8ab7a087ae"
            "a58292"
        ),
    ),
    20: (
        "8304141a6955b900",
        "d08357a301181e044a0024befffe804ff1000106456955b90002a05818aaa203bcb4f28b9032dec53242581a49b576f2623d034585",
    ),
    21: (
        "8405150f1a69570a80",
        "d08357a301181e044a0024befffe804ff1000106456955b90003a058196ada661175bf0e4bbb1e4da905a141612a7c2338694284b987",
    ),
}
# docs/frame.md, section 3: traffic key and Base IV of the downlink under both epochs.
KNOWN_TRAFFIC_KEYS = {
    0: ("de6017df95e4ff8dee23ac9c71626a84", "8de77ec51cf0e2d0935f666cbd"),
    1: ("17e9b6993665d5f42c8bf7323c8dc43f", "5da47a9a822ae76aeb71c5443d"),
}


def test_known_answers_of_the_document() -> None:
    known_device()
    sealed = command_sealing.seal(
        [
            KeyCommand(17, KNOWN_TITLE, 2),
            PlainCommand(18, KNOWN_TITLE, (2, 18)),
            PlainCommand(19, KNOWN_TITLE, (3, 19, 1_767_139_200, 1_767_225_600)),
            PlainCommand(20, KNOWN_TITLE, (4, 20, 1_767_225_600)),
            PlainCommand(21, KNOWN_TITLE, (5, 21, 15, 1_767_312_000)),
        ],
        NOW,
    )
    assert {number: one.octets.hex() for number, one in sealed.items()} == {
        number: octets for number, (_, octets) in KNOWN_COMMANDS.items()
    }
    text = "".join((Path(__file__).parents[3] / "docs" / "frame.md").read_text().split())
    for plaintext, octets in KNOWN_COMMANDS.values():
        assert plaintext in text
        assert octets in text
    assert cbor2.dumps([{0: COMMAND_DONE, 1: "count", 2: 17, 6: 1_767_225_601}]).hex() in text


# Of docs/frame.md, section 10, too, under the transfer key: the key of scheme 1; one to agree on, with the head-end's
# public key; and the key of scheme 4, whose frames are sealed to that key of the head-end.
OF_SCHEME_1 = (
    "d08357a301181e044a0024befffe804ff1000006456955b90004a05838d4da0eb5f8cd441b39a484eadcc5c0bc897d41e44bbc6aba51448205"
    "d51774a09c48a932463ea479d70a29d291b4b589c41d006011f7dbce"
)
AGREED = (
    "d08357a301181e044a0024befffe804ff1000006456955b90005a05838d073565ae9d6beabf6c952390f83b8f22acb561fb527fdc18cfc72ed"
    "d60ddc1f08a9224e5e53881c308b20e5313084204d0549904978db7d"
)
OF_SCHEME_4 = (
    "d08357a301181e044a0024befffe804ff1000006456955b90007a0585fdfe27ca89dd62da789bab0666a39819f74ef75649e14b17a30593d61"
    "1b0136e4562698451a7847fb62e7a39d451b214ab7c4a40de4d287eaa0d1ca4684cfdd12d9c2abddf8cb3a860d4c45d5f96581b43bb9363a82"
    "03238eef93123f2d29f4"
)
KNOWN_AGREED_TRANSFER_KEY = bytes.fromhex("b9a73eed2e5653042f8b885c6c216d733a3ba8d112f56c7cac06340b9bf04e48")
KNOWN_NEW_KEY = bytes(range(64, 96))
KNOWN_HEAD_END = X25519PrivateKey.from_private_bytes(bytes(range(0x80, 0xA0)))
KNOWN_METER = X25519PrivateKey.from_private_bytes(bytes(range(0x60, 0x80)))


@pytest.mark.parametrize(
    ("pending", "number", "known"),
    [("scheme 1", 22, OF_SCHEME_1), ("agreed", 23, AGREED), ("scheme 4", 25, OF_SCHEME_4)],
)
def test_known_answers_for_keys_of_other_schemes_and_sources(pending: str, number: int, known: str) -> None:
    transfer_key = KNOWN_AGREED_TRANSFER_KEY if pending == "agreed" else KNOWN_TRANSFER_KEY
    provisioning.provision_stored([NewKey(KNOWN_TITLE, 0, transfer_key), NewKey(KNOWN_TITLE, 1, KNOWN_KEY)])
    DownlinkCounter.objects.create(key=DeviceKey.objects.get(epoch=0), last=int(known[42:52], 16) - 1)
    agreement = agreement_key(KNOWN_HEAD_END).pk
    session = SCHEMES["ccm"]._replace(name="session", number=1)
    to_agreement_key = session._replace(name="sealed", number=4, envelope="sealed")
    with SCHEMES.including(session), SCHEMES.including(to_agreement_key):
        match pending:
            case "scheme 1":
                provisioning.provision_pending([NewKey(KNOWN_TITLE, 2, KNOWN_NEW_KEY, 10, "session")], {})
            case "agreed":
                publics = {KNOWN_TITLE: KNOWN_METER.public_key().public_bytes_raw()}
                provisioning.provision_pending([], {}, [NewKey(KNOWN_TITLE, 2, agreement_key=agreement)], publics)
            case _:
                new = NewKey(KNOWN_TITLE, 2, KNOWN_NEW_KEY, -65537, "sealed", agreement)
                provisioning.provision_pending([new], {})
        sealed = command_sealing.seal([KeyCommand(number, KNOWN_TITLE, 2)], NOW)
    assert sealed[number].octets.hex() == known
    assert known in "".join((Path(__file__).parents[3] / "docs" / "frame.md").read_text().split())


@pytest.mark.parametrize("number", KNOWN_COMMANDS)
def test_known_answers_open_as_any_other_implementation_would(number: int) -> None:
    plaintext, octets = (bytes.fromhex(text) for text in KNOWN_COMMANDS[number])
    frame = parse_frame(octets)
    key, base_iv = (bytes.fromhex(text) for text in KNOWN_TRAFFIC_KEYS[int.from_bytes(frame.kid[8:], "big")])
    nonce = bytes(a ^ b for a, b in zip(base_iv, frame.counter.to_bytes(13, "big"), strict=True))
    aad = cbor2.dumps(["Encrypt0", frame.protected, b""])
    assert AESCCM(key, 16).decrypt(nonce, frame.ciphertext, aad) == plaintext
