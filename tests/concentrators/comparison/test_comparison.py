"""Schemes side by side: counts that are the product's, a page that says what the command says, attackers that try."""

import csv
import hashlib
import re
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings
from django.core.management import CommandError, call_command

from concentrators.comparison import microcontroller, table, timing
from concentrators.comparison.meters import (
    DLMS_KEYS,
    EPOCH,
    CountedMeter,
)
from concentrators.comparison.primitives import Primitives
from concentrators.comparison.subjects import ED25519, HOP_TAG, SHARED, Subject, subjects
from concentrators.comparison.withstands import THREATS, Power, is_private, is_proof, withstands
from concentrators.simulator.meter import RESERVE_AHEAD, Memory, SimulatedMeter
from concentrators.simulator.sealers import METER_SCHEMES
from concentrators.vectors.material import COUNTER, DEVICE_KEY, PAYLOAD, TIME_S, TITLE
from keyvault.cose.kdf import derived_device_key
from keyvault.cose.sealing import TagInvalidError
from keyvault.replay_window import CounterSet, Take
from keyvault.schemes.table import SCHEMES, SchemeError, check_for_meters
from tests.concentrators.comparison.attacker import Attacker

PAGE = (Path(settings.BASE_DIR) / "docs" / "schemes.md").read_text()
SUBJECTS = {one.name: one for one in subjects()}
every = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)


def output(*words: str) -> str:
    out = StringIO()
    call_command("schemes", "compare", *words, stdout=out)
    return out.getvalue()


class TestTables:
    def test_the_page_has_what_the_command_writes(self) -> None:
        begin, end = "<!-- manage.py schemes compare --format markdown --no-times -->\n", "<!-- end -->"
        assert (
            PAGE.partition(begin)[2].partition(end)[0].strip() == output("--format", "markdown", "--no-times").strip()
        )

    def test_every_scheme_has_a_row(self) -> None:
        assert list(SUBJECTS) == [one.name for one in SCHEMES if one.number is not None] + [HOP_TAG, ED25519, SHARED]
        figures = microcontroller.read(settings.BASE_DIR / microcontroller.FIGURES)
        assert figures is not None
        assert f"{figures.primitives['x25519']:,}" in PAGE

    def test_formats_and_times(self) -> None:
        rows = list(csv.DictReader(StringIO(output("--format", "csv"))))
        assert [row["scheme"] for row in rows] == list(SUBJECTS)
        by_name = {row["scheme"]: row for row in rows}
        assert float(by_name["sealed"]["to open"]) > float(by_name["ccm"]["to open"])
        assert "CPU time" in output()
        with pytest.raises(CommandError):
            call_command("schemes", "compare", "--format", "xml")

    def test_ratios_are_paired(self) -> None:
        ratio = timing.ratios([SUBJECTS["ccm"], SUBJECTS["sealed + signed"]], rounds=1)["sealed + signed"]
        assert ratio.open_ > 3

    def test_another_count_than_the_products_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Primitives, "hmac", lambda *_: bytes(32))
        with pytest.raises((AssertionError, TagInvalidError)):
            table.compare()

    @pytest.mark.parametrize("name", [SHARED, ED25519, HOP_TAG])
    def test_no_meter_can_be_given_what_is_no_scheme(self, name: str) -> None:
        with pytest.raises(SchemeError):
            check_for_meters(name)


class TestCounts:
    @pytest.mark.parametrize(("octets", "blocks"), [(0, 1), (55, 1), (56, 2), (64, 2), (119, 2), (120, 3)])
    def test_compressions_of_sha_256(self, octets: int, blocks: int) -> None:
        p = Primitives()
        assert p.sha256(bytes(octets)) == hashlib.sha256(bytes(octets)).digest()
        assert p.frame.sha256_blocks == blocks

    @pytest.mark.parametrize(("octets", "blocks"), [(0, 1), (111, 1), (112, 2), (239, 2), (240, 3)])
    def test_compressions_of_sha_512(self, octets: int, blocks: int) -> None:
        p = Primitives()
        p.sha512(bytes(octets))
        assert p.frame.sha512_blocks == blocks

    @pytest.mark.parametrize("octets", [1, 16, 17, 37, 52, 500])
    def test_blocks_of_ccm_are_those_of_its_formula(self, octets: int) -> None:
        """RFC 3610: B_0, the AAD with its length, the payload twice, and S_0."""
        meter, aad = CountedMeter(), 11 + 22 + 1
        meter.ccm(bytes(octets))
        assert meter.p.frame.aes_blocks == 1 + -(-(2 + aad) // 16) + 2 * -(-octets // 16) + 1

    @pytest.mark.parametrize("name", ["ccm", "session", "mac-256"])
    def test_the_emulated_meter_agrees_with_its_counted_blocks(self, name: str) -> None:
        """What is no block (copying, headers, the key schedule) is under a sixth of a frame."""
        figures = microcontroller.read(settings.BASE_DIR / microcontroller.FIGURES)
        assert figures is not None
        meter = CountedMeter()
        getattr(meter, name.partition("-")[0])(PAYLOAD)
        blocks = figures.of(meter.p.frame)
        assert blocks < figures.frames[name] < blocks * 7 / 6

    @pytest.mark.parametrize("name", ["ccm", "session", "mac", "ccm + signed", "session + signed"])
    def test_writes_are_those_of_the_simulated_meter(self, name: str) -> None:
        """Of a boot and some frames: each record's copies are two writes."""
        frames, written = 2 * RESERVE_AHEAD, Counter[str]()
        memory = Memory(0)
        alg = METER_SCHEMES[name].algorithms[0]
        SimulatedMeter(TITLE, DEVICE_KEY, memory, alg=alg, scheme=name)
        memory.nonvolatile.power = lambda _, cell, __: written.update([cell.rpartition(" ")[0]])
        meter = SimulatedMeter(TITLE, DEVICE_KEY, memory, alg=alg, scheme=name, clock_s=TIME_S)
        for _ in range(frames):
            meter.seal(SUBJECTS[name].reading)
        expected = sum(-(-frames // each) for each in SUBJECTS[name].writes) + ("session" in name)
        assert written.total() == 2 * expected, written

    def test_without_the_file_the_column_is_empty(self, tmp_path: Path) -> None:
        assert microcontroller.read(tmp_path / "m0.json") is None
        assert table.costs(table.compare(), None).rows[0][-1] == "-"


@every
class TestWithstands:
    """The facts of the table, each tried by an attacker with what the attacker has."""

    def says(self, subject: Subject) -> dict[str, Power]:
        return withstands(subject.name, subject.envelope, subject.content)

    def test_who_opens_a_meter(self, subject: Subject) -> None:
        key = DLMS_KEYS if subject.envelope.startswith("dlms") else DEVICE_KEY
        attacker = Attacker(subject, key, has_meter=True)
        assert attacker.reads(None) == (Power.READS in self.says(subject)["meter_before"])
        assert attacker.forges() == (Power.FORGES in self.says(subject)["meter_after"])

    def test_who_has_no_key(self, subject: Subject) -> None:
        says = self.says(subject)
        assert Attacker(subject, None).can() == says["eavesdropper"]
        for threat in ("concentrator", "rekeyed", "other_meters", "agreement_key", "database_frames"):
            if (subject.name, threat) not in {("hop", "concentrator"), (SHARED, "other_meters")}:
                assert says[threat] == says["eavesdropper"], threat

    def test_who_has_the_master_key(self, subject: Subject) -> None:
        """Then device keys and the agreement key lie open, and nothing that a meter alone has."""
        key = DLMS_KEYS if subject.envelope.startswith("dlms") else DEVICE_KEY
        private = X25519PrivateKey.from_private_bytes(bytes(range(0x80, 0xA0)))
        assert Attacker(subject, key).can(private) == self.says(subject)["master_key"]

    def test_who_has_the_fleet_key(self, subject: Subject) -> None:
        if subject.envelope.startswith("dlms"):
            assert "derived" not in SCHEMES[subject.name].sources
            return
        assert len(derived_device_key(bytes(32), TITLE, EPOCH)) == len(DEVICE_KEY)  # all that is needed
        assert Attacker(subject, DEVICE_KEY).can() == self.says(subject)["fleet_key"]

    def test_replay(self, subject: Subject) -> None:
        counters = CounterSet(8, -1, 0, [])
        assert [counters.take(COUNTER), counters.take(COUNTER)] == [Take.TAKEN, Take.SEEN]
        assert self.says(subject)["replay"] is Power.NOTHING

    def test_proof_and_privacy(self, subject: Subject) -> None:
        """A head-end can make up what is no proof; and finds no reading in what is private."""
        assert Attacker(subject, DLMS_KEYS if "dlms" in subject.name else DEVICE_KEY).forges() != is_proof(
            subject.content
        )
        opened = subject.sides().open_(subject.counted().octets)
        assert (subject.reading in opened) != is_private(subject.content)


def test_the_concentrator_of_hop_reads_and_forges() -> None:
    assert Attacker(SUBJECTS["hop"], DEVICE_KEY).can() == withstands("hop", "hop", "plain")["concentrator"]


def test_one_opened_meter_of_shared_forges_all() -> None:
    """The document runs it (test_document.py); the table says it."""
    assert withstands(SHARED, "ccm", "plain")["other_meters"] == Power.READS_AND_FORGES
    assert re.search(r"^## `shared`", PAGE, re.MULTILINE)


def test_every_attacker_has_a_column() -> None:
    columns = table.protection(table.compare()).columns
    assert [title for title, _ in THREATS.values()] == columns[1:-2]
