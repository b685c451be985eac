"""manage.py check_frame: every check of the product on a frame or an uplink, without storing anything."""

import string
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core import eui64
from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.eui64 import Eui64Error
from concentrators.frame_check_reports import FrameReport, report
from concentrators.ingest import reception
from concentrators.ingest.reception import UplinkError
from concentrators.ingest.transaction_retry import TransientError
from concentrators.listener.cutters import split
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from keyvault.schemes.dissector import Dissection
from keyvault.schemes.lines import Derived

_USAGE = 2
_BSTR_FIRST = range(0x40, 0x60)  # the first octet of a CBOR byte string; no frame begins so
_SHOWN_OCTETS = 24  # of a part; the notation beside it is cut alike


class Command(DomainCommand):
    help = (
        "Check a frame, or the body of an uplink (a CBOR sequence of byte strings), as the head-end would check it "
        "now, and store nothing. Shows the frame octet by octet, the verdict, and the reason in words; where its key "
        "is a bench key (of a laboratory meter, or a test key such as that of docs/frame.md) also the info strings, "
        "nonce, AAD and payload. Never prints a key. A hop tag is checked as the meter's concentrator would. "
        "Several DLMS notifications in one file, bare or in links of one kind, are checked one by one."
    )
    examples = (
        "examples:\n"
        "  manage.py check_frame d08353a3010a044a0024befffe804ff10001064261a7a0583c...\n"
        "  manage.py check_frame frame.bin --meter 0024befffe804ff1    it should be of that meter\n"
        "  manage.py check_frame uplink.cbor --json                    for programs\n"
        "  manage.py check_frame - < frame.hex                         from standard input\n\n"
        "A file holds the octets themselves, or their hexadecimal digits.\n\n"
        "exit status: 0 the head-end would accept every frame (or has it already), or its concentrator opens it "
        "(scheme hop); 1 one would be refused; "
        "2 nothing was checked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", metavar="HEX|FILE", help="hexadecimal digits, a file, or - for standard input")
        parser.add_argument("--meter", metavar="TITLE", help="the system title that every frame must name")
        parser.add_argument("--at", metavar="TIME", help="time of reception, such as 2026-03-01T09:00Z (now)")
        parser.add_argument("--frame", action="store_true", help="a single frame, even if it looks like several")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(
        self, *args: Any, what: str, meter: str | None, at: str | None, frame: bool, json: bool, **options: Any
    ) -> None:
        octets = _read(what)
        try:
            title = None if meter is None else eui64.parse(meter)
            received_at = timezone.now() if at is None else time_of(at)
        except (Eui64Error, CommandError) as error:
            raise CommandError(f"{error}. Nothing was checked.", returncode=_USAGE) from None
        is_uplink = not frame and octets[0] in _BSTR_FIRST
        try:
            frames = reception.frames_of(octets) if is_uplink else [octets] if frame else split(octets)
        except UplinkError as error:
            self._refuse_uplink(str(error), json=json)
        try:
            found = report(frames, received_at, title)
        except TransientError as error:
            raise CommandError(f"{error}. Nothing was checked.", returncode=_USAGE) from None
        if json:
            kind = "uplink" if is_uplink else "frame" if len(found) == 1 else "frames"
            self.write_json(_told(found, received_at, kind))
        else:
            for number, one in enumerate(found, 1):
                self._write(number, len(found), one)
        if not all(one.is_good for one in found):
            sys.exit(1)

    def _refuse_uplink(self, why: str, *, json: bool) -> None:
        if json:
            self.write_json({"kind": "uplink", "accepted": False, "reason": why, "frames": []})
        else:
            self.stdout.write(f"refused with status 400: {why}.")
        sys.exit(1)

    def _write(self, number: int, of: int, one: FrameReport) -> None:
        write = self.stdout.write
        write(f"Frame {number} of {of}, {len(one.octets):,} octets")
        for note in one.notes:
            write(f"  {note}")
        for line in _part_lines(one.dissection):
            write(f"  {line}")
        if one.dissection.notation is not None:
            write(f"  {one.dissection.notation}")
        for line in (*_key_lines(one), *_derived_lines(one), *_verdict_lines(one)):
            write(f"  {line}")


def _read(what: str) -> bytes:
    """The octets that an argument names. CommandError with exit status 2 where it names none."""
    limit = settings.UPLINK_MAX_OCTETS
    if what == "-":
        given, where = sys.stdin.buffer.read(2 * limit + 1024), "standard input"
    elif _is_hex(what):
        given, where = what.encode(), "the argument"
    else:
        given, where = _read_file(what, 2 * limit + 1024), what[:80]
    text = given.decode("ascii", "replace")
    if _is_hex(text):
        digits = "".join(text.split())
        if len(digits) % 2:
            raise CommandError(
                f"{where} has {len(digits):,} hexadecimal digits; octets have two each. Nothing was checked.",
                returncode=_USAGE,
            )
        given = bytes.fromhex(digits)
    if not given:
        raise CommandError(f"{where} is empty. Nothing was checked.", returncode=_USAGE)
    if len(given) > limit:
        raise CommandError(
            f"{where} has more than the {limit:,} octets of an uplink. Nothing was checked.", returncode=_USAGE
        )
    return given


def _read_file(name: str, limit: int) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(limit)
    except (OSError, ValueError):  # ValueError: a name with a zero octet
        raise CommandError(
            f"{name[:80]!r} is neither hexadecimal digits nor a file that can be read. Nothing was checked.",
            returncode=_USAGE,
        ) from None


def _is_hex(text: str) -> bool:
    return set(text) <= set(string.hexdigits + string.whitespace)


def _part_lines(found: Dissection) -> Iterator[str]:
    for part in found.parts:
        shown = part.octets[:_SHOWN_OCTETS].hex() + "..." * (len(part.octets) > _SHOWN_OCTETS)
        wrong = "breaks here: " if part.is_wrong else ""
        yield f"{part.offset:5}  {'  ' * part.depth}{shown}  {wrong}{part.meaning}"


def _key_lines(one: FrameReport) -> list[str]:
    kid, key = one.judged.kid, one.key
    if kid is None:
        return []
    named = f"meter {kid[:SYSTEM_TITLE_OCTETS].hex()}"
    if len(kid) >= KID_OCTETS:
        named += f", key epoch {int.from_bytes(kid[SYSTEM_TITLE_OCTETS:KID_OCTETS], 'big')}"
    if key is None:
        return [f"{named}: no such key here"]
    counter = "no counter taken yet" if key.highest < 0 else f"highest counter {key.highest:,}"
    return [f"{named}: {key.state}, scheme {key.scheme}, {key.algorithm}, {counter}"]


def _derived_lines(one: FrameReport) -> list[str]:
    lines = []
    if one.tag is not None:
        lines += [f"hop tag, {value.name}: {value.octets.hex()}" for value in one.tag.values]
    if one.key is not None and one.key.values:
        lines.append(f"The key {one.key.why_bench}, so compare this with what your meter computes:")
        lines += [f"  {value.name}: {value.octets.hex()}" for value in one.key.values]
    if one.payload is not None:
        octets, notation = one.payload
        lines += [f"  payload: {octets.hex()}", *([] if notation is None else [f"  {notation}"])]
    if one.signed is not None:
        lines += ["The payload, layer by layer:", *(f"  {line}" for line in _part_lines(one.signed))]
        lines += [f"  {one.signed.wrong}"] * (one.signed.wrong is not None)
    return lines


def _verdict_lines(one: FrameReport) -> list[str]:
    explanation = one.explanation
    if explanation is None:
        return [f"Verdict: {one.verdict}"]
    return [
        f"Verdict: {one.verdict}" + (f": {one.detail}" if one.detail else ""),
        explanation.meaning,
        *(["The head-end would judge it again once the reason has passed."] if one.waits else []),
        "Likely causes:",
        *(f"  - {cause}" for cause in explanation.causes),
        "What to do:",
        *(f"  {number}. {step}" for number, step in enumerate(explanation.steps, 1)),
    ]


def _told(found: list[FrameReport], received_at: datetime, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "received_at": received_at,
        "accepted": all(one.is_good for one in found),
        "frames": [_told_of_frame(one) for one in found],
    }


def _told_of_frame(one: FrameReport) -> dict[str, Any]:
    kid, key, explanation = one.judged.kid, one.key, one.explanation
    wrong = one.dissection.wrong
    return {
        "octets": one.octets.hex(),
        "verdict": one.verdict,
        "reason": one.detail,
        "waits": one.waits,
        "meaning": explanation and explanation.meaning,
        "causes": explanation and explanation.causes,
        "steps": explanation and explanation.steps,
        "notes": one.notes,
        "system_title": kid and kid[:SYSTEM_TITLE_OCTETS].hex(),
        "epoch": int.from_bytes(kid[SYSTEM_TITLE_OCTETS:KID_OCTETS], "big") if kid and len(kid) >= KID_OCTETS else None,
        "kid_context": kid[KID_OCTETS:].hex() if kid else "",
        "counter": one.judged.counter,
        "key": key and {"scheme": key.scheme, "algorithm": key.algorithm, "state": key.state, "highest": key.highest},
        "hop_tag": one.tag and {"fits": one.tag.fits, "derived": _by_name(one.tag.values)},
        "derived": _by_name(key.values) if key else {},
        "payload": one.payload and {"octets": one.payload[0].hex(), "notation": one.payload[1]},
        "malformed_at": None if wrong is None else one.dissection.wrong_at,
        "parts": _told_parts(one.dissection),
        "signed": one.signed and {"wrong": one.signed.wrong, "parts": _told_parts(one.signed)},
        "notation": one.dissection.notation,
    }


def _told_parts(found: Dissection) -> list[dict[str, Any]]:
    return [
        {"offset": part.offset, "octets": part.octets.hex(), "depth": part.depth, "meaning": part.meaning}
        for part in found.parts
    ]


def _by_name(values: list[Derived]) -> dict[str, str]:
    return {value.name: value.octets.hex() for value in values}
