"""manage.py check_frame: the verdict of each vector and of each state of the database; nothing is written or leaks."""

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from concentrators.frame_check_reports import report
from concentrators.models import Concentrator
from concentrators.vectors import material
from keyvault.cose.kdf import hop_infos, uplink_infos, uplink_key, uplink_secret
from keyvault.cose.structures import encode_sequence
from keyvault.device_keys import agreement_keys, key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.enrolment import authorities
from keyvault.enrolment.frames import parse_enrolment
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.agreed import agreed_info
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.hop_tag import HopTagKey
from meters.models import MeterStatus
from tests.concentrators import enrolling
from tests.concentrators.dlms_devices import dlms_meter, profile
from tests.concentrators.fleet import NOW, START, Device, commission, judged, usual
from tests.concentrators.masked_devices import of_masked_ccm
from tests.concentrators.scheme_devices import meter_at, of_mac, of_sealed, of_session, of_signed
from tests.concentrators.statements import Statements, counting
from tests.concentrators.test_hop_reports import Holder, meters
from tests.dlms_frames import STREAM
from tests.factories import ConcentratorFactory, MeterFactory
from tests.vectors.test_vectors import _awaited, _forgotten, _heard_before, _provisioned, of_kind

pytestmark = pytest.mark.django_db
WORN = "hop-tag/still-worn-at-the-head-end"  # here it is checked as the concentrator would, which strips the tag
DLMS_AT = datetime(2025, 7, 14, 10, 30, tzinfo=UTC)


@pytest.fixture
def concentrator(db: None) -> Concentrator:
    return ConcentratorFactory.create(system_title=material.CONCENTRATOR)


@pytest.fixture
def statements() -> Iterator[Statements]:
    with counting() as found:
        yield found


def check(*words: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    out = StringIO()
    try:
        call_command("check_frame", *words, stdout=out)
    except SystemExit as ended:
        return int(str(ended.code)), out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def checked(frame: bytes, *words: str, at: datetime = NOW) -> dict[str, Any]:
    """What the command says of one frame, for programs; the exit status must agree with it."""
    status, text = check(frame.hex(), "--frame", "--json", "--at", at.isoformat(), *words)
    told = json.loads(text)
    assert status == (0 if told["accepted"] else 1)
    (one,) = told["frames"]
    assert told["accepted"] == (one["verdict"] in ("accepted", "duplicate", "for_concentrator"))
    return dict(one)


def verdict(frame: bytes) -> str:
    return str(checked(frame)["verdict"])


def stored() -> dict[str, tuple[int, str]]:
    """Of every table how many rows it has, and where each version of a row lies."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = {}
        for (table,) in cursor.fetchall():
            cursor.execute(
                f"SELECT count(*), coalesce(md5(string_agg(t.ctid || '-' || t.xmin, ' ' ORDER BY t.ctid)), '') "
                f'FROM "{table}" t'
            )
            found[table] = cursor.fetchone()
    return found


def test_each_vector_gets_its_verdict_and_nothing_is_written(concentrator: Concentrator) -> None:
    wrong, seen = {}, set()
    for one in of_kind("frame"):
        if one["id"] == WORN:
            continue
        at = datetime.fromtimestamp(one["received_at"], UTC)
        with _forgotten(), _provisioned(one):
            _heard_before(concentrator, one)
            is_new = one["verdict"] not in seen
            before = stored() if is_new else {}
            (found,) = report([one["frame"]], at)
            if is_new and one["frame"]:
                assert checked(one["frame"], at=at)["verdict"] == one["verdict"], one["id"]
                status, text = check(one["frame"].hex(), "--frame", "--at", at.isoformat())
                assert (status, f"Verdict: {one['verdict']}" in text) == (0 if found.is_good else 1, True)
            assert not is_new or stored() == before, one["id"]
            seen.add(one["verdict"])
        if found.verdict != one["verdict"]:
            wrong[one["id"]] = found.verdict, one["verdict"]
        if one["verdict"] == "accepted" and "payload" in one:
            assert found.payload is not None
            assert found.payload[0] == one["payload"], one["id"]
    assert wrong == {}
    assert {"accepted", "duplicate", "tag_invalid", "clock_skew", "unknown_register", "counter_reused"} <= seen


def test_states_of_the_database(concentrator: Concentrator) -> None:
    device, other = commission(2, concentrator)
    first, second = device.frame(0), device.frame(1)
    assert verdict(first) == "accepted"
    assert judged(concentrator, [first]) == {"accepted": 1}
    before = stored()
    assert verdict(first) == "duplicate"
    assert checked(first, at=NOW + timedelta(days=30))["verdict"] == "replayed"
    assert verdict(device.seal(usual(2), 0)) == "counter_reused"
    assert verdict(device.frame(0, 999)) == "reading_conflict"
    assert verdict(other.frame(0)) == "accepted"
    assert checked(first, "--meter", other.title.hex())["verdict"] == "identity_mismatch"
    other.meter.system_title = b"\x00" * 8
    assert verdict(other.frame(0)) == "unknown_device"
    assert stored() == before
    device.meter.status = MeterStatus.SUSPENDED
    device.meter.save()
    told = checked(second)
    assert (told["verdict"], told["waits"]) == ("device_suspended", True)
    key_rows.set_key_state([DeviceKey.objects.get(system_title=device.title).pk], KeyState.RETIRED)
    told = checked(second)
    assert (told["verdict"], told["key"]["state"]) == ("key_retired", "retired")
    assert told["causes"]
    assert told["steps"]


@pytest.mark.parametrize(
    "make", [of_session, of_mac, of_sealed, of_signed, of_masked_ccm], ids=lambda make: make.__name__
)
def test_other_schemes(concentrator: Concentrator, make: Callable[[Concentrator], Device]) -> None:
    device = make(concentrator)
    if make is of_signed:
        unannounced = device.sign(usual(0), 99)  # type: ignore[attr-defined]
        assert verdict(device.seal_unsigned(unannounced, 40)) == "coupon_unknown"  # type: ignore[attr-defined]
    frame = device.frame(1)
    before = stored()
    told = checked(frame)
    assert (told["verdict"], told["derived"], told["payload"]) == ("accepted", {}, None)  # the key is a secret
    assert checked(frame[:-1] + bytes((frame[-1] ^ 1,)))["verdict"] == "tag_invalid"
    assert stored() == before
    assert judged(concentrator, [frame]) == {"accepted": 1}
    assert verdict(frame) == "duplicate"


def test_dlms(concentrator: Concentrator) -> None:
    """The first frames of a stream of one meter: no profile at first, then each as it is verified."""
    one, steps = STREAM["meters"][0], [step for step in STREAM["frames"] if "apdu" in step]
    title, control = bytes.fromhex(one["title"]), int(one["accept_sc"][0], 16)
    gak = bytes.fromhex(one["gak"] or "") or bytes(16)
    dlms_meter(title, bytes.fromhex(one["guek"]) + gak, concentrator, control)
    frame = bytes.fromhex(steps[0]["apdu"])
    assert checked(frame, at=DLMS_AT)["verdict"] == "unknown_profile"
    profile(bytes.fromhex(steps[0]["plain"]), title)
    told = checked(frame, at=DLMS_AT)
    assert (told["verdict"], told["key"]["scheme"], told["system_title"]) == (steps[0]["expect"], "dlms", title.hex())
    assert one["guek"] not in json.dumps(told)
    assert judged(concentrator, [frame], DLMS_AT) == {"accepted": 1}
    assert checked(frame, at=DLMS_AT)["verdict"] == "duplicate"
    assert checked(frame[:-1] + bytes((frame[-1] ^ 1,)), at=DLMS_AT)["verdict"] == "tag_invalid"


def test_enrolments(concentrator: Concentrator) -> None:
    """Frames that bring a certificate, of meters that may enrol: no key is made of them."""
    wrong = {}
    for one in of_kind("enrolment"):
        at = datetime.fromtimestamp(one["received_at"], UTC)
        with _forgotten():
            _awaited(concentrator, one, at)
            before = stored()
            verdict_here = checked(one["frame"], at=at)["verdict"]
            assert stored() == before, one["id"]
        if verdict_here != one["verdict"]:
            wrong[one["id"]] = verdict_here, one["verdict"]
    assert wrong == {}


def test_the_number_of_queries_does_not_depend_on_that_of_frames(
    concentrator: Concentrator, statements: Statements
) -> None:
    def asked(devices: list[Device]) -> int:
        statements.take()
        assert {one.verdict for one in report([device.frame(0) for device in devices], NOW)} == {"accepted"}
        return len(statements.take())

    assert asked(commission(20, concentrator)) == asked(commission(1, concentrator)) < 30


def test_what_a_concentrator_reports(db: None) -> None:
    holder = Holder()
    (device,) = meters(holder, 1)
    stranger = Device(MeterFactory.create(), bytes(32))
    report_of_it = holder.report(device)
    before = stored()
    told = checked(report_of_it)
    assert (told["verdict"], told["key"]["scheme"]) == ("accepted", "concentrator")
    assert checked(holder.report(device, 1))["verdict"] == "accepted"
    assert checked(holder.report(stranger))["verdict"] == "identity_mismatch"
    assert stored() == before
    assert judged(holder.row, [report_of_it]) == {"accepted": 1}
    assert checked(report_of_it)["verdict"] == "duplicate"


def test_a_frame_that_wears_a_hop_tag(concentrator: Concentrator) -> None:
    device = Device(meter_at(concentrator), bytes(range(32)))
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 10, "ccm")])
    frame = device.frame(0)
    key = HopTagKey.of_device(device.key, device.title, 1, material.CONCENTRATOR)
    told = checked(key.seal_tag(frame))
    assert (told["verdict"], told["hop_tag"]["fits"]) == ("accepted", True)
    assert set(told["hop_tag"]["derived"]) == {"info of the hop MAC key", "MAC_structure"}
    wrong = HopTagKey.of_device(device.key, device.title, 1, bytes(8)).seal_tag(frame)
    told = checked(wrong)
    assert (told["verdict"], told["hop_tag"]["fits"]) == ("tag_invalid", False)
    assert "hop tag" in told["reason"]
    assert verdict(key.seal_tag(frame)[:-1]) == "malformed"


def test_a_frame_for_the_concentrator_says_so(concentrator: Concentrator) -> None:
    device = Device(meter_at(concentrator), bytes(range(32)))
    provisioning.provision_stored([NewKey(device.title, 1, device.key, 10, "hop")])
    cipher = hop_cipher(device.key, device.title, 1, 10, material.CONCENTRATOR)
    sealed = cipher.seal(device.kid, 0, usual(0))
    told = checked(sealed)
    assert (told["verdict"], told["waits"], told["reason"]) == ("for_concentrator", False, "")
    assert material.CONCENTRATOR.hex() in told["notes"][0]
    assert told["payload"]["octets"] == usual(0).hex()
    assert told["derived"]["info of the key"] == hop_infos(device.title, 1, 10, material.CONCENTRATOR)[0].hex()
    assert checked(sealed[:-1] + bytes((sealed[-1] ^ 1,)))["verdict"] == "tag_invalid"
    secret = Device(meter_at(concentrator), secrets.token_bytes(32))
    provisioning.provision_stored([NewKey(secret.title, 1, secret.key, 10, "hop")])
    cipher = hop_cipher(secret.key, secret.title, 1, 10, material.CONCENTRATOR)
    told = checked(cipher.seal(secret.kid, 0, usual(0)))
    assert (told["verdict"], told["payload"], told["derived"]) == ("for_concentrator", None, {})


def test_what_a_signed_meter_sends_is_shown_layer_by_layer(concentrator: Concentrator) -> None:
    device = of_signed(concentrator)
    device.meter.is_laboratory = True
    device.meter.save()
    reading, coupons = device.frame(0), device.seal_unsigned(device.list_of(11))
    named = {part["meaning"] for part in checked(reading)["signed"]["parts"]}
    assert "r, a scalar: the signature: a byte string of 32 octets" in named
    assert f"bt: base time: {START:%Y-%m-%d %H:%M:%S} UTC" in named
    assert {"label: v: value", "key epoch 1", "system title (EUI-64)"} <= named
    told = checked(coupons)["signed"]
    meanings = [part["meaning"] for part in told["parts"]]
    assert (told["wrong"], sum(one.startswith("K: point") for one in meanings)) == (None, 11)
    assert any(one.startswith("signature of the meter's identity") for one in meanings)
    _, text = check(coupons.hex(), "--frame", "--at", NOW.isoformat())
    assert "The payload, layer by layer:" in text
    wrong = device.seal_unsigned(device.sign(usual(0))[:-1])
    assert checked(wrong)["signed"]["wrong"]


def test_the_derived_values_of_enrolment_frames(concentrator: Concentrator) -> None:
    enrolling.pin()
    version = agreement_keys.init("hes-1", enrolling.OFFICER)
    meter = meter_at(concentrator)
    newcomer = enrolling.Newcomer(meter, version)
    authorities.allow([newcomer.title], enrolling.OFFICER, NOW)
    frame = newcomer.frame(newcomer.certificate())
    told = checked(frame)
    assert (told["verdict"], told["derived"]) == ("accepted", {})
    meter.is_laboratory = True
    meter.save()
    told = checked(frame)
    assert (told["verdict"], told["key"]["state"]) == ("accepted", "enrolled by this")
    info = agreed_info(newcomer.title, 1, newcomer.public, bytes(version.public))
    assert told["derived"]["info of the device key"] == info.hex()
    certificate = parse_enrolment(frame)
    assert certificate is not None
    assert certificate.certificate.hex() in told["derived"]["AAD"]
    before = told["derived"]
    assert judged(concentrator, [frame]) == {"accepted": 1}
    again = checked(frame)
    assert again["verdict"] == "duplicate"
    del before["info of the device key"]
    assert again["derived"] == before
    assert newcomer.key(1).hex()[:16] not in json.dumps([told, again])


class TestKeys:
    def test_the_values_of_a_test_key_are_those_of_the_document(self, concentrator: Concentrator) -> None:
        (one,) = (one for one in of_kind("frame") if one["id"] == "ccm/alg-10")
        with _forgotten(), _provisioned(one):
            told = checked(one["frame"], at=datetime.fromtimestamp(one["received_at"], UTC))
        nonce = (int.from_bytes(one["base_iv"], "big") ^ one["counter"]).to_bytes(13, "big")
        assert told["derived"]["nonce"] == nonce.hex()
        assert told["derived"]["AAD"] == "8368456e637279707430" + one["frame"][2:22].hex() + "40"
        assert told["derived"]["info of the key"] == uplink_infos(one["system_title"], 1, 10)[0].hex()
        assert one["key"].hex() not in json.dumps(told)

    def test_no_output_holds_octets_of_a_key(self, concentrator: Concentrator) -> None:
        for one in of_kind("frame"):
            if one["verdict"] != "accepted":
                continue
            at = datetime.fromtimestamp(one["received_at"], UTC).isoformat()
            with _forgotten(), _provisioned(one):
                for words in ((), ("--json",)):
                    _, text = check(one["frame"].hex(), "--frame", "--at", at, *words)
                    for secret in _secrets_of(one):
                        assert secret.hex()[:16] not in text, one["id"]

    def test_of_a_secret_key_nothing_is_derived(self, concentrator: Concentrator) -> None:
        (device,) = commission(1, concentrator)
        told = checked(device.frame(0))
        assert (told["verdict"], told["derived"], told["payload"]) == ("accepted", {}, None)
        device.meter.is_laboratory = True
        device.meter.save()
        told = checked(device.frame(1))
        assert set(told["derived"]) == {"info of the key", "info of the Base IV", "nonce", "AAD"}
        assert told["payload"]["octets"] == usual(1).hex()
        assert all(secret.hex()[:16] not in json.dumps(told) for secret in (device.key, device.key[16:]))


def _secrets_of(one: dict[str, Any]) -> list[bytes]:
    key, alg = one["device_key"], one["alg"]
    if one["scheme"].split(" ")[0] in ("mac", "sealed"):
        return [key, uplink_secret(key, one["system_title"], one["epoch"], alg)]
    traffic = uplink_key(key, one["system_title"], one["epoch"], alg, one.get("context", b""))
    return [key, traffic.key]


class TestInput:
    def test_several_notifications_in_one_file(self, concentrator: Concentrator) -> None:
        apdus = [bytes.fromhex(step["apdu"]) for step in STREAM["frames"] if "apdu" in step][:3]
        status, text = check(b"".join(apdus).hex(), "--json")
        told = json.loads(text)
        assert (status, told["kind"]) == (1, "frames")
        assert [one["octets"] for one in told["frames"]] == [one.hex() for one in apdus]
        damaged = b"".join(apdus) + b"?"
        assert len(json.loads(check(damaged.hex(), "--json")[1])["frames"]) == 1
        assert len(json.loads(check(b"".join(apdus).hex(), "--json", "--frame")[1])["frames"]) == 1

    def test_an_uplink_is_judged_as_a_whole(self, concentrator: Concentrator) -> None:
        (device,) = commission(1, concentrator)
        frames = [device.frame(0), device.frame(1), b"noise"]
        status, text = check(encode_sequence([*frames, frames[0]]).hex(), "--json")
        told = json.loads(text)
        verdicts = [one["verdict"] for one in told["frames"]]
        assert (status, told["kind"], verdicts) == (1, "uplink", ["accepted", "accepted", "malformed", "duplicate"])
        assert check(encode_sequence(frames[:2]).hex())[0] == 0

    def test_a_body_that_is_no_uplink(self, db: None) -> None:
        status, text = check("58ff00")
        assert (status, "announces 255 octets" in text) == (1, True)
        assert json.loads(check("58ff00", "--json")[1])["accepted"] is False

    def test_files(self, concentrator: Concentrator, tmp_path: Path) -> None:
        (device,) = commission(1, concentrator)
        binary, text = tmp_path / "frame.bin", tmp_path / "frame.hex"
        binary.write_bytes(device.frame(0))
        text.write_text(binary.read_bytes().hex(" ") + "\n")
        assert [check(str(path))[0] for path in (binary, text)] == [0, 0]

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("d08", "3 hexadecimal digits"),
            ("", "is empty"),
            ("not hex", "neither hexadecimal digits nor a file"),
            ("/", "neither hexadecimal digits nor a file"),
            ("00" * 5_000_000, "more than the"),
        ],
    )
    def test_bad_input(self, db: None, given: str, says: str) -> None:
        status, text = check(given)
        assert (status, says in text, "Nothing was checked" in text) == (2, True, True), text

    def test_bad_options(self, db: None) -> None:
        assert check("d083", "--meter", "12")[0] == 2
        assert check("d083", "--at", "yesterday")[0] == 2
