"""DLMS frames through the whole verification: every verdict, exactly once, beside frames of other schemes."""

import csv
import io
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.db import transaction
from django.urls import reverse
from pytest_django import Settings

from ami_headend.signin import roles
from concentrators.failures.kinds import WAITING, FailureKind
from concentrators.ingest import reverification_queue
from concentrators.models import Concentrator, IntegrityFailure, IntervalTotal, Uplink
from concentrators.totals import totals
from keyvault.audit.chain import Actor
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.device_keys import epochs, key_rows, provisioning
from keyvault.models import DeviceKey, InvocationCounter, KeyState, Session
from keyvault.schemes.session import SessionSealer
from keyvault.schemes.table import scheme_numbered
from meters.models import MeterEvent, Reading
from meters.readings.obis import STANDARD_LOG
from tests.concentrators.dlms_devices import IN_FRAME, DlmsDevice, dlms_meter, key_set, meter_of, profile
from tests.concentrators.fleet import NOW, commission, evidence, judged, outcome, verified
from tests.concentrators.statements import Statements
from tests.console.people import person
from tests.dlms_frames import REAL, STREAM, SYNTHETIC, octets
from tests.dlms_frames import key_set as keys_of
from tests.factories import ConcentratorFactory
from tests.meters.push.profiles import definition_for

pytestmark = pytest.mark.django_db
AT = datetime(2025, 7, 14, 10, 30, tzinfo=UTC)
TITLE = bytes.fromhex("545354ae6af2a9a4")


def highest(title: bytes, epoch: int = 1) -> int:
    return InvocationCounter.objects.get(key__system_title=title, key__epoch=epoch).highest


class TestStream:
    """31 frames, one an uplink, in their order."""

    @pytest.fixture
    def meters(self, concentrator: Concentrator) -> list[bytes]:
        titles = []
        for one in STREAM["meters"]:
            title, control = bytes.fromhex(one["title"]), int(one["accept_sc"][0], 16)
            gak = bytes.fromhex(one["gak"] or "") or bytes(16)
            dlms_meter(title, bytes.fromhex(one["guek"]) + gak, concentrator, control)
            if "pending_guek" in one:
                key_set(title, bytes.fromhex(one["pending_guek"]) + gak, control, 2, KeyState.PENDING)
            titles.append(title)
        profile(bytes.fromhex(STREAM["frames"][0]["plain"]), titles[0])
        return titles

    def test_each_frame_gets_its_verdict(self, concentrator: Concentrator, meters: list[bytes]) -> None:
        sent: list[bytes] = []
        other = ConcentratorFactory.create()
        for step in STREAM["frames"]:
            if "action" in step:
                (old,) = DeviceKey.objects.filter(system_title=meters[0], epoch=1)
                assert old.state == KeyState.RETIRING
                key_rows.set_key_state([old.pk], KeyState.RETIRED)
                continue
            before = {row.pk: row.highest for row in InvocationCounter.objects.all()}
            frame = bytes.fromhex(step["apdu"])
            via = other if frame in sent else concentrator  # of the same the same body would be the same uplink
            sent.append(frame)
            found = judged(via, [frame], AT)
            assert len(found) == 1, step
            (verdict,) = found
            assert verdict in (step["expect"], *step.get("expect_any", ())), step
            after = {row.pk: row.highest for row in InvocationCounter.objects.all()}
            if step["expect"] in ("tag_invalid", "algorithm_mismatch", "unknown_device", "duplicate", "clock_skew"):
                assert after == before, step
        assert highest(meters[0], 2) == 2**32 - 1
        assert DeviceKey.objects.get(system_title=meters[0], epoch=2).state == KeyState.ACTIVE

    def test_all_of_it_in_one_uplink_gives_no_other_readings(
        self, concentrator: Concentrator, meters: list[bytes]
    ) -> None:
        frames = [bytes.fromhex(step["apdu"]) for step in STREAM["frames"] if "apdu" in step]
        found = judged(concentrator, frames, AT)
        # The old key is retiring still: its last frame is accepted, and the one that says otherwise of 12:00 is not.
        wanted = [step["expect"] for step in STREAM["frames"] if "apdu" in step]
        assert found["accepted"] == wanted.count("accepted")
        assert judged(concentrator, [*frames, frames[0]], AT).get("accepted", 0) == 0


def plaintext_of(entry: dict[str, Any]) -> bytes:
    said = entry["frames"][0] if "frames" in entry else entry
    return bytes.fromhex(said["plain"])


OPEN = [
    name
    for name, one in SYNTHETIC.items()
    if one["kind"] == "synthetic" and "plain" in one and one["verdict"].startswith("open")
]
MISMATCH = {
    "db_sc70_broadcast", "dc_dedicated_sc30", "ca_glo_event_notification", "dd_wrapped", "dd_agreed_1e1s_suite1",
    "dd_agreed_0e2s_suite1", "dd_agreed_1e1s_suite2", "dd_agreed_0e2s_suite2", "df_suite1_with_content_length",
    "df_suite1_without_content_length", "df_suite2_with_content_length", "df_suite2_without_content_length",
}  # fmt: skip
MALFORMED = {"tr_wrapper_two", "tr_gbt_twice"}


@pytest.mark.parametrize("name", OPEN)
def test_a_vector_that_opens_is_accepted_once(concentrator: Concentrator, name: str) -> None:
    entry = SYNTHETIC[name]
    control = int(entry.get("sc") or "30", 16)
    keys = keys_of(entry) or secrets.token_bytes(32)
    frame = octets(entry)
    meter = meter_of(TITLE, concentrator)
    meter.interval_minutes = 15
    meter.save()
    registered = 0x30 if name in MISMATCH else control
    key_set(TITLE, keys[:32] if registered & 0x0F < 2 else keys, registered, is_general=name.startswith("dd_"))
    if name in MISMATCH or name in MALFORMED:
        assert judged(concentrator, [frame], AT) == {"algorithm_mismatch" if name in MISMATCH else "malformed": 1}
        return
    assert judged(concentrator, [frame], AT) == {"unknown_profile": 1}
    assert highest(TITLE) == -1
    profile(plaintext_of(entry), TITLE, definition_for(name, entry))
    while reverification_queue.work():
        pass
    uplink = Uplink.objects.get()
    if name in ("push_object_list", "nulls_for_missing_phase"):
        assert outcome(uplink) in ({"accepted": 1}, {"unknown_register": 1}, {"registry_mismatch": 1})
        if uplink.rejected:
            return
    assert outcome(uplink) == {"accepted": 1}
    assert highest(TITLE) == entry.get("ic", highest(TITLE))
    again = "counter_too_old" if name == "edge_ic_max" else "duplicate"  # the set is used up
    assert judged(concentrator, [frame, frame], AT) == {again: 2}
    assert Reading.objects.exists() or MeterEvent.objects.exists()


REFUSED = {
    "db_sc00": "algorithm_mismatch", "dd_short_aad": "tag_invalid", "db_scB0_compressed": "algorithm_mismatch",
    "neg_tag_bit": "tag_invalid", "neg_ct_bit": "tag_invalid", "neg_ic_bit": "tag_invalid",
    "neg_title_bit": "unknown_device", "neg_downgrade_sc20": "algorithm_mismatch",
    "neg_downgrade_sc20_bitflip": "algorithm_mismatch", "neg_truncated": "malformed", "neg_trailing": "malformed",
    "neg_title_len7": "malformed", "neg_len_over": "malformed", "neg_only_tag": "malformed",
    "neg_plain_0f": "algorithm_mismatch", "neg_depth": "payload_invalid", "neg_array_count": "payload_invalid",
    "neg_compact_zero_width": "payload_invalid", "tr_hdlc_bad_fcs": "malformed", "tr_gbt_missing": "malformed",
    "tr_mbus_bad_checksum": "malformed", "tr_mbus_missing_last": "malformed",
}  # fmt: skip


def test_every_vector_has_its_verdict_here() -> None:
    refused = {
        name for name, one in SYNTHETIC.items() if str(one.get("verdict")).startswith("refuse")
    }  # fmt: skip
    assert refused == REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_a_vector_that_is_refused(concentrator: Concentrator, name: str) -> None:
    entry = SYNTHETIC[name]
    keys = keys_of(entry) or secrets.token_bytes(32)
    meter_of(TITLE, concentrator)
    key_set(TITLE, keys, is_general=name.startswith("dd_"))
    assert judged(concentrator, [octets(entry)], AT) == {REFUSED[name]: 1}
    assert highest(TITLE) == (entry["ic"] if REFUSED[name] == "payload_invalid" else -1)


# What becomes of each capture: those in clear are refused, and the others end as their registers say, or, once their
# clocks are before what is kept, as too old.
REAL_VERDICTS = dict.fromkeys(REAL, "algorithm_mismatch") | {
    "dp_hdlc_landis_gyr_zmf100": "malformed", "dp_mbus_kmswest": "unknown_device",
    "dp_hdlc_kamstrup_omnipower": "unknown_register", "dp_mbus_netz_noe_p1": "too_old", "fkw9_2": "too_old",
    "dp_hdlc_landis_gyr_e450": "too_old", "hasm_sim-three-phase": "accepted", "hasm_sim-hdlc": "accepted",
    "hasm_sim-p1": "accepted",
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_a_real_frame(concentrator: Concentrator, name: str) -> None:
    """What was sent in clear is refused; all else waits for its profile, and then gets the verdict of its content."""
    entry = REAL[name]
    (said,) = entry["frames"]
    keys = keys_of(entry)
    if keys is None:
        assert judged(concentrator, [octets(entry)], NOW) == {REAL_VERDICTS[name]: 1}
        return
    title = bytes.fromhex(said["system_title"])
    dlms_meter(title, keys, concentrator, int(said["sc"], 16))
    assert judged(concentrator, [octets(entry)], NOW) == {"unknown_profile": 1}
    profile(plaintext_of(entry), title, definition_for(name, said))
    while reverification_queue.work():
        pass
    uplink = Uplink.objects.get()
    ((found, _),) = outcome(uplink).items()
    assert found in (REAL_VERDICTS[name], "too_old"), evidence(uplink)


def test_a_notification_that_names_another_meter_by_its_serial_number_is_refused(concentrator: Concentrator) -> None:
    body = bytes.fromhex("0f000000010c07e9070e010a0f00ff00000002020a08" + b"KFM-0815".hex() + "0600000457")
    columns = [{"at": 0, "is": "device_id"}, {"at": 1, "obis": "1-0:1.8.0", "scaler": 0, "unit": "Wh"}]
    definition = {"kind": "positional", "clock": {"from": "apdu"}, "columns": columns}
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    profile(body, TITLE, definition)
    assert judged(concentrator, [device.frame(body, 1)], AT) == {"identity_mismatch": 1}
    (failure,) = IntegrityFailure.objects.all()
    assert "serial number 'KFM-0815'" in failure.detail
    device.meter.serial_number = "KFM-0815"
    device.meter.save()
    later = body[:12] + b"\x05" + body[13:]
    assert judged(concentrator, [device.frame(later, 2)], AT) == {"accepted": 1}
    assert judged(concentrator, [device.frame(later.replace(b"0815", b"0816"), 3)], AT) == {"identity_mismatch": 1}


def test_an_event_notification_is_an_event_with_its_code(concentrator: Concentrator) -> None:
    """Service-specific ciphering (ca) does not say whose it is. With the title in front (db) the same tag fits."""
    entry = SYNTHETIC["ca_glo_event_notification"]
    dlms_meter(TITLE, keys_of(entry) or b"", concentrator)
    bare = octets(entry)
    assert bare[0] == 0xCA
    assert judged(concentrator, [bare], AT) == {"algorithm_mismatch": 1}
    named = b"\xdb\x08" + TITLE + bare[1:]
    assert judged(concentrator, [named], AT) == {"unknown_profile": 1}
    assert judged(concentrator, [b"\xdb\x08" + TITLE[:7] + b"\x00" + bare[1:]], AT) == {"unknown_device": 1}
    code = {"obis": STANDARD_LOG, "scaler": 0, "unit": "count"}
    profile(plaintext_of(entry), TITLE, {"kind": "obis", "clock": {"from": "apdu"}, "columns": [code]})
    while reverification_queue.work():
        pass
    (event,) = MeterEvent.objects.all()
    assert (event.register.obis_code, event.value) == (STANDARD_LOG, 33)
    assert event.captured_at == datetime(2025, 7, 14, 8, 15, tzinfo=UTC)
    assert scheme_numbered(event.scheme).name == "dlms"
    assert judged(concentrator, [named, named], AT) == {"duplicate": 2}


def test_no_gak_means_no_key_set(concentrator: Concentrator) -> None:
    meter_of(TITLE, concentrator)
    provisioning.provision_stored([provisioning.NewKey(TITLE, 0)])  # what the meter has is a KEK alone
    assert judged(concentrator, [octets(SYNTHETIC["db_sc30"])], AT) == {"unknown_epoch": 1}


class TestWithoutTag:
    """SC 20: encryption alone."""

    def device(self, concentrator: Concentrator, number: int, control: int = 0x20) -> DlmsDevice:
        """A meter that pushes quarter-hours, with a profile of its own."""
        title = TITLE[:7] + bytes((number,))
        device = dlms_meter(title, secrets.token_bytes(32), concentrator, control)
        device.meter.interval_minutes = 15
        device.meter.save()
        definition = definition_for("compact_array_octets", {})
        profile(self.INTERVALS, title, definition, name=f"meter {number}", prefix=8)
        return device

    INTERVALS = bytes.fromhex(SYNTHETIC["compact_array_octets"]["plain"])
    DAY = datetime(2025, 7, 14, tzinfo=UTC), datetime(2025, 7, 15, tzinfo=UTC)

    def total(self, concentrator: Concentrator) -> tuple[int, int, int]:
        rows = IntervalTotal.objects.filter(concentrator=concentrator)
        sums = rows.values_list("value_sum", "meters_counted", "meters_masked")
        value, counted, masked = map(sum, zip(*sums, strict=True))
        return int(value), counted, masked

    def test_no_sum_has_them_and_they_count_as_arrived(self, settings: Settings) -> None:
        for number, wanted in enumerate((False, True)):
            settings.UNAUTHENTICATED_TOTALS = wanted
            via = ConcentratorFactory.create()
            device = self.device(via, number)
            assert judged(via, [device.frame(self.INTERVALS, 5)], AT) == {"accepted": 1}
            readings = list(Reading.objects.filter(meter=device.meter).values_list("value", flat=True))
            expected = (sum(readings), len(readings), 0) if wanted else (0, 0, len(readings))
            assert self.total(via) == expected
            mine = [one for one in totals.compare(*self.DAY) if one.concentrator_id == via.pk]
            assert mine == []
            with transaction.atomic():  # an exchange takes the readings away, and gives them back
                totals.lock()
                totals.shift([device.meter.pk], self.DAY[0], -1)
                assert not IntervalTotal.objects.filter(concentrator=via).exists()
                totals.shift([device.meter.pk], self.DAY[0], 1)
            assert self.total(via) == expected

    def test_after_the_setting_was_changed_totals_are_recomputed(
        self, concentrator: Concentrator, settings: Settings
    ) -> None:
        device = self.device(concentrator, 1)
        assert judged(concentrator, [device.frame(self.INTERVALS, 5)], AT) == {"accepted": 1}
        settings.UNAUTHENTICATED_TOTALS = True
        assert totals.recompute(*self.DAY)
        assert totals.compare(*self.DAY) == []
        assert self.total(concentrator)[2] == 0

    @pytest.mark.parametrize(("control", "caveat"), [(0x30, ""), (0x10, "carried in clear"), (0x20, "unauthenticated")])
    def test_every_place_that_shows_readings_marks_them(
        self, concentrator: Concentrator, control: int, caveat: str
    ) -> None:
        device = self.device(concentrator, 1, control)
        assert judged(concentrator, [device.frame(self.INTERVALS, 5)], AT) == {"accepted": 1}
        (number,) = set(Reading.objects.values_list("scheme", flat=True))
        marked = (scheme_numbered(number).name, caveat)
        client = person(roles.OPERATOR)
        address = "/api/v1/readings?from=2025-07-14&to=2025-07-15"
        rows = client.get(address).json()["results"]
        as_csv = client.get(f"{address}&format=csv").getvalue().decode()
        as_parquet = client.get(f"{address}&format=parquet").getvalue()
        exports = [*csv.DictReader(io.StringIO(as_csv)), *pq.read_table(io.BytesIO(as_parquet)).to_pylist()]
        assert {(one["scheme"], one["caveat"]) for one in [*rows, *exports]} == {marked}
        assert len(exports) == 2 * len(rows) == 2 * Reading.objects.count()
        shown = f"{marked[0]}: {caveat}" if caveat else marked[0]
        page = reverse("admin:readings") + f"?meter={device.title.hex()}&from=2025-07-14T00:00&to=2025-07-15T00:00"
        for place in (page, reverse("admin:meter", args=[device.meter.pk])):
            assert shown in client.get(place).content.decode(), place

    def test_a_wrong_key_moves_no_counter(self, concentrator: Concentrator) -> None:
        body = bytes.fromhex(SYNTHETIC["db_sc20"]["plain"])
        device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator, 0x20)
        profile(body, TITLE)
        good = device.frame(body, 70)
        device.keys = secrets.token_bytes(32)
        assert judged(concentrator, [device.frame(body, 71)], AT) == {"tag_invalid": 1}
        assert judged(concentrator, [good], AT) == {"accepted": 1}
        assert highest(TITLE) == 70


class TestRotationByImport:
    """The next set comes in a shipment; the meter's first frame under it proves it."""

    BODY = bytes.fromhex(SYNTHETIC["db_sc30"]["plain"])

    def frames_of(self, device: DlmsDevice, minutes: Sequence[int]) -> list[bytes]:
        return [device.frame(self.BODY[:12] + bytes((minute,)) + self.BODY[13:], minute) for minute in minutes]

    def states(self) -> dict[int, str]:
        return dict(DeviceKey.objects.filter(system_title=TITLE).values_list("epoch", "state"))

    def test_the_first_frame_proves_it_and_late_ones_of_the_old_set_are_taken(self, concentrator: Concentrator) -> None:
        profile(self.BODY, TITLE)
        old = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
        first, late, later, last = self.frames_of(old, (11, 12, 13, 14))
        assert judged(concentrator, [first]) == {"accepted": 1}
        keys = secrets.token_bytes(32)
        key_set(TITLE, keys, epoch=2, state=KeyState.PENDING)
        new = replace(old, keys=keys)
        assert judged(concentrator, [late]) == {"accepted": 1}
        assert self.states() == {1: "active", 2: "pending"}
        assert judged(concentrator, self.frames_of(new, (1, 2))) == {"accepted": 2}  # its counters begin again
        assert self.states() == {1: "retiring", 2: "active"}
        assert judged(concentrator, [later, first]) == {"accepted": 1, "duplicate": 1}
        (row,) = DeviceKey.objects.filter(epoch=1)
        key_rows.set_key_state([row.pk], KeyState.RETIRED)
        assert judged(concentrator, [last]) == {"key_retired": 1}
        assert judged(concentrator, self.frames_of(new, (3,))) == {"accepted": 1}
        assert (highest(TITLE), highest(TITLE, 2)) == (13, 3)

    def test_a_compromised_set_opens_nothing_any_more(self, concentrator: Concentrator) -> None:
        profile(self.BODY, TITLE)
        device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
        one, two = self.frames_of(device, (1, 2))
        assert judged(concentrator, [one]) == {"accepted": 1}
        epochs.compromise([DeviceKey.objects.get().pk], Actor("officer", "test"))
        assert judged(concentrator, [two, one]) == {"key_retired": 2}
        keys = secrets.token_bytes(32)
        key_set(TITLE, keys, epoch=2)
        assert judged(concentrator, self.frames_of(replace(device, keys=keys), (3,))) == {"accepted": 1}
        assert judged(concentrator, [device.frame(self.BODY, 9)]) == {"key_retired": 1}


def test_a_forged_session_of_a_key_set_takes_no_counter_from_it(concentrator: Concentrator) -> None:
    """Anybody can send, in the same uplink, a frame of another envelope that names one: replays stay replays."""
    body = bytes.fromhex(SYNTHETIC["db_sc30"]["plain"])
    profile(body, TITLE)
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    assert judged(concentrator, [device.frame(body, 3)]) == {"accepted": 1}
    forged = SessionSealer(secrets.token_bytes(32), TITLE, 1, AES_CCM_16_64_128, secrets.token_bytes(12)).seal(b"\x80")
    other = body[:12] + bytes((body[12] ^ 1,)) + body[13:]
    again = judged(concentrator, [forged, device.frame(other, 3), device.frame(body, 3)])
    assert again == {"algorithm_mismatch": 1, "counter_reused": 1, "duplicate": 1}
    assert highest(TITLE) == 3
    assert not Session.objects.exists()


def test_a_set_is_used_up_with_its_last_counter(concentrator: Concentrator) -> None:
    body = bytes.fromhex(SYNTHETIC["db_sc30"]["plain"])
    profile(body, TITLE)
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    last = device.frame(body, 2**32 - 1)
    assert judged(concentrator, [device.frame(body, 3), last, device.frame(body, 5)]) == {
        "accepted": 2,
        "counter_too_old": 1,
    }
    assert judged(concentrator, [device.frame(body, 7), last]) == {"counter_too_old": 2}


def test_kinds_that_wait_name_the_profile() -> None:
    assert FailureKind.UNKNOWN_PROFILE in WAITING


def test_a_mixed_uplink_takes_a_constant_number_of_queries(concentrator: Concentrator, statements: Statements) -> None:
    """Whatever the number of COSE and DLMS frames, of forms, and of profiles."""
    forms = [bytes.fromhex(SYNTHETIC[name]["plain"]) for name in ("db_sc30", "tag_0c_datetime", "positional")]
    definitions = [IN_FRAME, IN_FRAME, definition_for("positional", {})]
    titles = [TITLE[:7] + bytes((number,)) for number in range(9)]
    pushing = [dlms_meter(title, secrets.token_bytes(32), concentrator) for title in titles]
    others = commission(9, concentrator)

    def frames(size: int) -> list[bytes]:
        """The next frame of so many meters of each kind; DLMS ones in turn of each form, at another second each."""
        found = []
        for number in range(size):
            body, counter = forms[number % len(forms)], next(counters[number])
            found.append(pushing[number].frame(body.replace(body[5:18], _later(body[5:18], counter)), counter))
            found.append(others[number].frame(counter))
        return found

    counters = [count() for _ in titles]
    for number, (body, definition) in enumerate(zip(forms, definitions, strict=True)):
        profile(body, TITLE, definition, name=f"form {number}")
    counts = []
    for turn, size in enumerate((9, 1, 3, 9, 9, 9)):  # the first one fills what a worker keeps
        if turn == 4:
            for number in range(30):
                profile(forms[number % 3], TITLE, definitions[number % 3], name=f"another {number}")
        statements.take()
        uplink = verified(concentrator, frames(size))
        counts.append(len(statements.take()))
        assert outcome(uplink) == {"accepted": 2 * size}
    assert counts[4] == counts[3] + 3  # registers, months in the archive and profiles are read again
    assert counts[1] == counts[2] == counts[3] == counts[5]


def _later(date_time: bytes, second: int) -> bytes:
    """The date-time of a notification (0c and 12 octets, or 09 0c and the first 11) at another second."""
    at = 8 if date_time[0] == 0x0C else 9
    return date_time[:at] + bytes((second % 60,)) + date_time[at + 1 :]
