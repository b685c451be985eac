"""Reports of frames for whoever builds a meter: dissected, judged without being stored, and the reason in words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from concentrators.failures.explanations import Explanation, explain
from concentrators.failures.kinds import WAITING, FailureKind
from concentrators.failures.reasons import without_values
from concentrators.fleet.assignments import holding
from concentrators.ingest import trial
from concentrators.ingest.trial import Judged
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, MalformedError
from keyvault.derivations import FrameKeys, KeyFacts, TagFacts
from keyvault.schemes.dissector import Dissection, dissect, dissect_signed, notation_of
from keyvault.schemes.hop_tag import Tagged, parse_tagged, wears_tag
from meters.models import Meter

FOR_CONCENTRATOR = "for_concentrator"


@dataclass(frozen=True, slots=True)
class FrameReport:
    """A frame with everything that can be told of it.

    ``octets`` are as given, ``judged`` is of the frame without its hop tag. ``refused`` is the reason of whoever would
    refuse it, None where nobody would; ``good_verdict`` holds then. ``payload`` is the plaintext and its CBOR
    diagnostic notation, ``signed`` what a signed meter's payload says, layer by layer; all only of bench keys.
    ``notes`` are sentences.
    """

    octets: bytes
    judged: Judged
    dissection: Dissection
    refused: FailureKind | None
    good_verdict: str
    detail: str
    key: KeyFacts | None
    tag: TagFacts | None
    payload: tuple[bytes, str | None] | None
    signed: Dissection | None
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return self.refused is None

    @property
    def verdict(self) -> str:
        """What becomes of it: accepted, duplicate, for its concentrator, or why it is refused."""
        return self.good_verdict if self.refused is None else self.refused.value

    @property
    def explanation(self) -> Explanation | None:
        return None if self.refused is None else explain(self.refused)

    @property
    def waits(self) -> bool:
        """Whether the head-end would judge it again once the reason has passed."""
        return self.refused in WAITING


def report(frames: Sequence[bytes], received_at: datetime, system_title: bytes | None = None) -> list[FrameReport]:
    """Report on frames that come together at a time, by the database as it is; nothing is written.

    Each should be of the meter with ``system_title`` (8 octets), if one is given. TransientError if the database or
    the master key has a problem. A fixed number of queries.
    """
    tags = [_tag(octets) for octets in frames]
    inside = [octets if tag is None else tag.frame for octets, tag in zip(frames, tags, strict=True)]
    judged = trial.judge(inside, received_at)
    kids = {one.kid for one in judged if one.kid is not None}
    kids |= {tag.kid for tag in tags if tag is not None}
    named = {kid[:SYSTEM_TITLE_OCTETS] for kid in kids}
    laboratory = Meter.objects.filter(system_title__in=named, is_laboratory=True).values_list("system_title", flat=True)
    enrolling = {one.kid: one.enrolling for one in judged if one.kid is not None and one.enrolling is not None}
    keys = FrameKeys(kids, set(map(bytes, laboratory)), enrolling)
    titles = _concentrators_of(named, received_at)
    return [
        _report(octets, one, tag, keys, titles, system_title)
        for octets, one, tag in zip(frames, judged, tags, strict=True)
    ]


def _tag(octets: bytes) -> Tagged | None:
    """The hop tag that a frame wears; None where it wears none, or none that a concentrator would strip."""
    try:
        return parse_tagged(octets) if wears_tag(octets) else None
    except MalformedError:
        return None


def _concentrators_of(titles: Iterable[bytes], at: datetime) -> dict[bytes, bytes]:
    """The system titles of the concentrators of meters, where they have one."""
    rows = holding(at).filter(meter__system_title__in=list(titles), concentrator__system_title__isnull=False)
    pairs = rows.values_list("meter__system_title", "concentrator__system_title")
    return {bytes(meter): bytes(concentrator or b"") for meter, concentrator in pairs}


def _report(
    octets: bytes,
    one: Judged,
    tag: Tagged | None,
    keys: FrameKeys,
    titles: dict[bytes, bytes],
    wanted_title: bytes | None,
) -> FrameReport:
    kid = one.kid
    title = None if kid is None else kid[:SYSTEM_TITLE_OCTETS]
    concentrator = None if title is None else titles.get(title)
    key = None if kid is None else keys.of_frame(one.octets, kid)
    is_told = key is not None and key.why_bench is not None
    refused, detail = one.failure, one.detail if is_told else without_values(one.detail)
    notes, hop, plaintext = [], None, one.plaintext
    tag_facts = None if tag is None else keys.of_tag(tag, concentrator)
    if tag_facts is not None:
        notes.append("It wears a hop tag, which the concentrator checks and strips; below is the frame inside.")
        if tag_facts.fits is False:
            refused, detail = FailureKind.TAG_INVALID, "the hop tag does not fit: the concentrator drops the frame"
        elif tag_facts.fits is None:
            notes.append("The tag was not checked: no key of its epoch, or no concentrator with a system title.")
    elif kid is not None and concentrator is not None and refused is FailureKind.TAG_INVALID:
        hop = keys.opened_at_concentrator(one.octets, kid, concentrator)
        if hop is not None:
            notes.append(f"It opens at concentrator {concentrator.hex()}, for which it is: the head-end never sees it.")
            refused, detail, plaintext = None, "", hop.plaintext
            key = key and key._replace(values=hop.values)
    if wanted_title is not None and title is not None and title != wanted_title:
        refused = FailureKind.IDENTITY_MISMATCH
        detail = f"the frame names {title.hex()}, not {wanted_title.hex()}"
    payload, signed = None, None
    if is_told and plaintext is not None:
        signed = dissect_signed(plaintext)
        payload = plaintext, notation_of(plaintext) if signed is None else signed.notation
    verdict = FOR_CONCENTRATOR if hop is not None else one.verdict
    dissection = dissect(one.octets)
    return FrameReport(octets, one, dissection, refused, verdict, detail, key, tag_facts, payload, signed, notes)
