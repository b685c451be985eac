"""Every form of octets that strangers can send: samples of it, and what must hold of whatever comes of a mutant.

A judge gets a mutant and gives its outcome in a word or two. It raises whatever the code raises that is none of its
own errors, and AssertionError where a mutant says what no sample said and passes for authentic.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from concentrators.listener.cutters import CUTTERS
from concentrators.simulator.dlms_links import DlmsLink, carried
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import MalformedError, encode_sequence, make_kid, split_sequence
from keyvault.coupons import forms as coupons
from keyvault.device_keys import shipment_file
from keyvault.enrolment.certificates import CertificateError, parse_certificate, parse_revocation
from keyvault.enrolment.frames import parse_enrolment
from keyvault.schemes import hop_tag
from keyvault.schemes.dissector import dissect
from keyvault.schemes.dlms import security
from keyvault.schemes.dlms.apdu import parse_dlms
from keyvault.schemes.dlms.envelope import MAX_OCTETS
from keyvault.schemes.dlms.gcm import GcmCipher
from keyvault.schemes.table import ENVELOPES, SCHEMES
from meters.contents import report
from meters.contents.lines import Catalogue, PushProfileRow, Reader
from meters.contents.table import Readers
from meters.readings.push.definition import parse_definition
from meters.readings.push.profiles import ContentError, parse_notification
from meters.readings.push.skeleton import digest
from meters.values import PayloadError, PayloadTimes
from tests.builders import KNOWN_TITLE
from tests.dlms_frames import REAL, STREAM, SYNTHETIC, key_set, octets, plaintexts
from tests.keyvault.coupons.known import LIST, READING
from tests.keyvault.schemes.forms import PAYLOAD, SAMPLES, Sample
from tests.keyvault.shipping import header, text, wrapped
from tests.meters import test_usual_packs as usual_packs
from tests.meters.push.profiles import definition_for
from tests.meters.push.test_shapes import REGISTERS

TITLE = bytes.fromhex("545354ae6af2a9a4")  # of the meter of most DLMS samples
PERIOD = PayloadTimes(0, 2**40)
MINUTES = 30
VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "vectors.json").read_text())["vectors"]
Judge = Callable[[bytes], str]


class Form(NamedTuple):
    """One form: its samples, and the judge of its mutants. ``rewrap`` puts a mutant into links whose checksums fit.

    ``is_cbor``: every other mutant is an item of CBOR still, with other values in it.
    """

    samples: Sequence[bytes]
    judge: Judge
    rewrap: Callable[[bytes], bytes] = bytes
    is_cbor: bool = False


def _said(name: str, kinds: Sequence[str], content: str = "") -> list[bytes]:
    """What the vectors of these kinds have under a name; of one content, where that is said: then what was accepted."""
    of_content = {one.name for one in SCHEMES if one.content == content}
    return sorted(
        {
            bytes.fromhex(one[name])
            for one in VECTORS
            if one["kind"] in kinds
            and one.get(name)
            and (not content or (one.get("scheme", "ccm") in of_content and one["verdict"] == "accepted"))
        }
    )


def _of_envelope(sample: Sample) -> Form:
    """Sealed frames of one envelope: there is one encoding, so that only what was sealed is ever opened."""
    right = [sample.seal(counter, payload) for counter in (0, 1, 255, 0x61A7) for payload in (b"", PAYLOAD)]
    sealed = frozenset(right)

    def judge(mutant: bytes) -> str:
        try:
            envelope = ENVELOPES.of(mutant)
            frame = envelope.parse(mutant)
        except MalformedError:
            return "malformed"
        if (frame.kid, frame.alg, envelope.name) != (sample.kid, sample.alg, sample.envelope):
            return "another key"
        try:
            sample.cipher.open_(frame)
        except TagInvalidError:
            return "tag invalid"
        assert mutant in sealed, "a frame was opened that nobody sealed"
        return "opened"

    return Form(right, judge)


def _of_content(samples: Sequence[bytes], reader: Reader, title: bytes, more: Callable[[bytes], None]) -> Form:
    """Payloads of meters with true keys and wrong octets."""

    def judge(mutant: bytes) -> str:
        more(mutant)
        try:
            values = reader.read(mutant, title, MINUTES, PERIOD)
        except PayloadError as error:
            return error.reason.value
        assert all(abs(one.value) < 2**64 and PERIOD[0] <= one.captured_s <= PERIOD[1] for one in values)
        return "read"

    return Form(samples, judge, is_cbor=True)


def _sums(payload: bytes) -> None:
    report.named_meter(payload)
    if report.is_sums(payload):
        try:
            report.read_sums(payload, usual_packs.REGISTERS, PERIOD)
        except PayloadError:
            return
        report.sum_intervals(payload)


def _opens(cipher: GcmCipher, some: bytes) -> bool:
    try:
        cipher.open_(parse_dlms(some))
    except (MalformedError, TagInvalidError):
        return False
    return True


class _Dlms:
    """The samples of DLMS: those of one key set each, with the cipher that opens them."""

    def __init__(self) -> None:
        self._entries = [one for one in (*SYNTHETIC.values(), *REAL.values()) if "raw" in one or "apdu" in one]
        said = [(octets(one), key_set(one), int(one.get("sc") or "30", 16)) for one in self._entries]
        said += [(bytes.fromhex(one["apdu"]), None, 0x30) for one in STREAM["frames"] if "apdu" in one]
        # Keys that live in an association alone open no frame that the head-end takes: they are no keys of ours.
        self.ciphers = {
            (keys, control): cipher
            for octets_, keys, control in said
            if keys and len(keys) == 2 * security.key_octets(control)
            for cipher in [GcmCipher(keys, control)]
            if _opens(cipher, octets_)
        }
        self.all = [one for one, _, _ in said]
        self.said = {found for one in self.all for found in self._opened(one)}
        assert len(self.said) > len(REAL), "samples that are right no longer open"

    def on(self, *links: str) -> list[bytes]:
        return [octets(one) for one in self._entries if (one.get("transport") or "apdu").startswith(links)]

    def _opened(self, some: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        try:
            frame = parse_dlms(some)
        except MalformedError:
            return
        for (_, control), cipher in self.ciphers.items():
            if security.control_of(frame.alg) == control and security.is_authenticated(control):
                try:
                    yield frame.kid, frame.counter, cipher.open_(frame)
                except TagInvalidError:
                    continue

    def judge(self, mutant: bytes) -> str:
        try:
            frame = parse_dlms(mutant)
        except MalformedError:
            return "malformed"
        assert len(frame.ciphertext) <= len(mutant)
        control = security.control_of(frame.alg)
        outcome = "another key"
        for (_, of_cipher), cipher in self.ciphers.items():
            if of_cipher != control:
                continue
            try:
                plaintext = cipher.open_(frame)
            except TagInvalidError:
                outcome = "tag invalid"
                continue
            if security.is_authenticated(control):
                assert (frame.kid, frame.counter, plaintext) in self.said, "opened, and nobody sealed it"
            return "opened"
        return outcome


def _streamed(kind: str) -> Judge:
    def judge(mutant: bytes) -> str:
        cutter = CUTTERS[kind]()
        try:
            whole = [one for at in range(0, len(mutant), 100) for one in cutter.feed(mutant[at : at + 100])]
        except MalformedError:
            return "ends the connection"
        assert len(cutter._rest) <= 2 * MAX_OCTETS
        return "notifications" if whole else "nothing whole"

    return judge


def _parsed(parse: Callable[[bytes], object], *errors: type[Exception]) -> Judge:
    def judge(mutant: bytes) -> str:
        try:
            return "none" if parse(mutant) is None else "parsed"
        except errors:
            return "refused"

    return judge


def _hop_tags() -> Form:
    (one, *_) = (one for one in VECTORS if one["kind"] == "hop_tag" and one["verdict"] == "accepted")
    key = hop_tag.HopTagKey(bytes.fromhex(one["key"]), make_kid(bytes.fromhex(one["system_title"]), one["epoch"]))
    tagged = bytes.fromhex(one["tagged"])

    def judge(mutant: bytes) -> str:
        try:
            key.check_tag(hop_tag.parse_tagged(mutant))
        except MalformedError:
            return "malformed"
        except TagInvalidError:
            return "tag invalid"
        assert mutant == tagged, "a hop tag passed that nobody made"
        return "opened"

    return Form(_said("tagged", ("hop_tag",)), judge)


def _shipment(mutant: bytes) -> object:
    return shipment_file._read(io.BytesIO(mutant), b"")


def _explained(mutant: bytes) -> str:
    """What evidence pages say of a frame that was refused."""
    return "whole" if dissect(mutant).wrong is None else "marked"


def _of_pushes() -> Form:
    """Notifications of meters, read by a profile for each form that has one."""
    rows = []
    for name, said, plaintext in plaintexts():
        with suppress(ContentError):
            skeleton = parse_notification(plaintext).skeleton
            rows.append(PushProfileRow(TITLE[:3], digest(skeleton), parse_definition(definition_for(name, said))))
    samples = [plaintext for _, _, plaintext in plaintexts()]
    pushes = _of_content(samples, Readers(Catalogue(REGISTERS, rows))["push"], TITLE, _no_more)
    return pushes._replace(is_cbor=False)


def _relinked(link: DlmsLink) -> Callable[[bytes], bytes]:
    return lambda mutant: carried(mutant[:60_000], link)


def _no_more(payload: bytes) -> None:
    """Nothing else reads it."""


def table() -> dict[str, Form]:
    """All forms by name."""
    readers, dlms = Readers(usual_packs.REGISTERS), _Dlms()
    accepted = _said("payload", ("frame",), "plain")
    frames = _said("frame", ("frame", "hop_report"))
    forms = {f"frame {name}": _of_envelope(sample) for name, sample in SAMPLES.items()}
    more = {"plain": usual_packs.agree, "report": _sums}
    for content in ("plain", "events", "masked", "report", "signed"):
        samples = [*_said("payload", ("frame", "hop_report"), content), *accepted[:4]]
        forms[f"payload {content}"] = _of_content(samples, readers[content], KNOWN_TITLE, more.get(content, _no_more))
    forms["payload push"] = _of_pushes()
    for name, links in {"apdu": ("apdu", "raw", "llc"), "hdlc": ("hdlc",), "mbus": ("mbus",),
                        "wrapper": ("wrapper",), "blocks": ("gbt",)}.items():  # fmt: skip
        forms[f"dlms {name}"] = Form(dlms.on(*links), dlms.judge)
    for link in DlmsLink:
        forms[f"dlms in whole {link}"] = Form(dlms.on("apdu", "gbt"), dlms.judge, _relinked(link))
        forms[f"stream {link}"] = Form([one * 2 for one in dlms.on(link)], _streamed(link))
    enrolments = _said("frame", ("enrolment",))
    signed = [*_said("certificate", ("enrolment",)), *_said("revocation", ("enrolment",))]
    malformed, certificate = (MalformedError,), (CertificateError,)
    return forms | {
        "hop tag": _hop_tags(),
        "enrolment": Form(enrolments, _parsed(parse_enrolment, *malformed)),
        "certificate": Form(signed, _parsed(parse_certificate, *certificate), is_cbor=True),
        "revocation": Form(signed, _parsed(parse_revocation, *certificate), is_cbor=True),
        "signed reading": Form([READING], _parsed(coupons.parse_reading, coupons.FormError)),
        "coupon list": Form([LIST], _parsed(coupons.parse_list, coupons.FormError)),
        "sequence": Form([encode_sequence(frames[at : at + 5]) for at in range(0, 40, 5)],
                         _parsed(split_sequence, *malformed)),
        "shipment": Form(_shipments(), _parsed(_shipment, shipment_file.ShipmentError)),
        "explained": Form([*frames, *enrolments, *dlms.all], _explained),
    }  # fmt: skip


def _shipments() -> list[bytes]:
    """Shipments with keys that are the same in every run: a seed must give the same mutants again."""
    key = wrapped(bytes(range(32)), bytes(32))
    said = [{"system_title": (KNOWN_TITLE[:-1] + bytes((n,))).hex(), "transfer_key": key} for n in range(3)]
    lines = [said[0], *({**one, "epoch": 1, "key": key} for one in said[1:])]
    return [text(lines[:meters], header(meters, transport_key="00" * 8)) for meters in (1, 2, 3)]
