"""Opens enrolment frames, which the usual opening rejected as malformed because of their certificate.

A frame with a valid certificate and tag gets a key that is in no table yet. If the frame is accepted, ``storing``
stores the key; nothing is written before. Batches without such frames cost nothing (docs/adr/0034).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings

from keyvault import master_key
from keyvault.ciphers import KeptCiphers, key_row
from keyvault.cose.kdf import uplink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import Frame, MalformedError
from keyvault.counted_keys import ACCEPTABLE, ContendedError, CountedKey
from keyvault.device_keys import agreement_keys
from keyvault.device_keys.provisioning import transfer_algorithm
from keyvault.device_keys.unwrapping import open_keys
from keyvault.enrolment import lookups
from keyvault.enrolment.certificate_checks import Why, check, check_epoch, check_only_one, not_awaited
from keyvault.enrolment.certificates import Certificate, CertificateError, parse_certificate, verify
from keyvault.enrolment.frames import EnrolmentFrame, parse_enrolment
from keyvault.enrolment.lookups import AgreementVersion, Awaited, Known
from keyvault.master_key import UnwrapError
from keyvault.models import KeyState
from keyvault.opening import Frames, Opened, Opening, Refused
from keyvault.refusals import EnrolmentRefusal, Refusal
from keyvault.replay_window import Take
from keyvault.replay_window_store import Care, know_foreseen, read_keys
from keyvault.schemes.agreed import AGREED, AgreementError, check_public
from keyvault.schemes.lines import KeyInputs
from keyvault.schemes.table import USUAL


class Enrolling(NamedTuple):
    """A key that a frame has enrolled, and that is in no table yet."""

    certificate: Certificate
    octets: bytes
    authority_id: int
    version_id: int
    awaited: Awaited
    cipher: DirectionCipher


class EventsKey:
    """The key of an enrolment frame, if its scheme has another envelope: then such a frame may have only events."""

    content = "events"
    opened_s = 0  # the counters are the device key's own, in every scheme

    def __init__(self, key: CountedKey) -> None:
        self._key = key
        self.scheme = key.scheme

    def look(self, counter: int) -> Take:
        """Return whether the counter could be taken."""
        return self._key.look(counter)

    def take(self, counter: int) -> Take:
        """Take the counter."""
        return self._key.take(counter)


class _Claimed(NamedTuple):
    """An enrolment frame: its uplink and index there, when it came in Unix seconds, and its content."""

    uplink: int
    place: int
    came_s: int
    frame: Frame
    octets: bytes


class _RefusedError(Exception):
    def __init__(self, reason: Refusal | EnrolmentRefusal, detail: str) -> None:
        super().__init__(detail)
        self.why: Why = (reason, detail)


def _refuse(why: Why | None) -> None:
    """Refuse the frame if a check failed."""
    if why is not None:
        raise _RefusedError(*why)


def open_enrolments(opening: Opening, uplinks: Sequence[Frames], came_s: Sequence[int]) -> dict[bytes, Enrolling]:
    """Open the enrolment frames among those rejected as malformed; return the keys to store, by kid.

    ``came_s`` has the time of each uplink in Unix seconds. Opened and rejected frames are added to those of their
    uplink, keys to those of the opening. A fixed number of queries, none without such frames.
    """
    claimed = _claimed(opening, uplinks, came_s)
    if not claimed:
        return {}
    batch = _Batch(opening, claimed)
    for one in claimed:
        opened, refused = opening.uplinks[one.uplink]
        kid, counter = one.frame.kid, one.frame.counter
        try:
            opened.append(batch.open_(one))
        except _RefusedError as error:
            refused.append(Refused(one.place, *error.why, kid, counter))
    return batch.enrolling


def _claimed(opening: Opening, uplinks: Sequence[Frames], came_s: Sequence[int]) -> list[_Claimed]:
    """Take the enrolment frames out of the rejected ones."""
    found = []
    for number, (frames, (_, refused)) in enumerate(zip(uplinks, opening.uplinks, strict=True)):
        octets: Mapping[int, bytes] | None = None
        for place in range(len(refused) - 1, -1, -1):
            index, reason, *_ = refused[place]
            if reason is not Refusal.MALFORMED:
                continue
            octets = dict(frames) if octets is None else octets
            try:
                parsed = _parse(octets[index])
            except MalformedError as error:
                refused[place] = Refused(index, reason, str(error))
                continue
            if parsed is not None:
                del refused[place]
                found.append(_Claimed(number, index, came_s[number], *parsed))
    return sorted(found, key=lambda one: one[:2])


def _parse(octets: bytes) -> EnrolmentFrame | None:
    return parse_enrolment(octets) if len(octets) <= settings.FRAME_MAX_OCTETS else None


class _Batch:
    """The enrolment frames of a batch, with what is known of them."""

    def __init__(self, opening: Opening, claimed: Sequence[_Claimed]) -> None:
        self.enrolling: dict[bytes, Enrolling] = {}
        self._keys = opening.keys
        kids = {one.frame.kid for one in claimed}
        self._keys.update(read_keys(kids - self._keys.keys(), {}, opening.care, KeptCiphers()))
        self._certificates = {one.octets: _certificate(one.octets) for one in claimed}
        certificates = [one for one in self._certificates.values() if isinstance(one, Certificate)]
        self._known: Known = lookups.look_up(
            {kid[:8] for kid in kids}, certificates, locks=opening.care is not Care.READ
        )
        # The others are rejected before anything is computed for them, and before their counters are checked.
        again = {one.frame.kid for one in claimed if self._is_of_its_certificate(one)} & self._keys.keys()
        # Other frames of the meter foresee nothing about their counters.
        know_foreseen([self._keys[kid] for kid in again])
        usable = [self._keys[kid].id for kid in again if self._keys[kid].state in ACCEPTABLE]
        self._opened = {key.id: key for key in open_keys(usable)} if usable else {}
        self._privates: dict[int, X25519PrivateKey | None] = {}

    def open_(self, one: _Claimed) -> Opened:
        kid, counter = one.frame.kid, one.frame.counter
        enrolling = self.enrolling.get(kid)
        if enrolling is not None:
            self._check_first(one, enrolling.certificate)
            cipher = enrolling.cipher
        elif kid in self._keys:
            cipher = self._cipher_of_standing(one)
        else:
            return self._enrol(one)
        try:
            plaintext = cipher.open_with(one.frame, one.octets)
        except TagInvalidError:
            raise _RefusedError(Refusal.TAG_INVALID, _BAD_TAG) from None
        return self._opened_frame(one.place, kid, counter, plaintext)

    def _opened_frame(self, index: int, kid: bytes, counter: int, plaintext: bytes) -> Opened:
        key = self._keys[kid]
        usual = key_row(0, 0, "", 0, USUAL)
        is_plain = (key.envelope, key.content) == (usual.envelope, usual.content)
        return Opened(index, kid, counter, plaintext, key if is_plain else EventsKey(key))  # type: ignore[arg-type]

    def _is_of_its_certificate(self, one: _Claimed) -> bool:
        """Return whether a frame has the certificate that enrolled its key before."""
        kid = one.frame.kid
        return self._is_numbered(one, self._known.enrolled.get((kid[:8], int.from_bytes(kid[8:], "big"))))

    def _is_numbered(self, one: _Claimed, number: tuple[bytes, bytes] | None) -> bool:
        certificate = self._certificates[one.octets]
        return isinstance(certificate, Certificate) and certificate.number == number

    def _check_first(self, one: _Claimed, first: Certificate) -> None:
        """Another certificate for what one of this batch may enrol waits: that one's frame may yet be refused."""
        if not self._is_numbered(one, first.number):
            is_new = self._known.epochs.get(one.frame.kid[:8]) is None
            detail = "another certificate may enrol this epoch: its frame is judged first"
            raise _RefusedError(Refusal.UNKNOWN_DEVICE if is_new else Refusal.UNKNOWN_EPOCH, detail)

    def _check_same(self, one: _Claimed, number: tuple[bytes, bytes] | None) -> None:
        """The certificate that enrolled a key is looked at no more; another one never opens anything."""
        if not self._is_numbered(one, number):
            detail = "this epoch was enrolled with another certificate"
            raise _RefusedError(EnrolmentRefusal.ALREADY_ENROLLED, detail)

    def _cipher_of_standing(self, one: _Claimed) -> DirectionCipher:
        key, kid = self._keys[one.frame.kid], one.frame.kid
        self._check_same(one, self._known.enrolled.get((kid[:8], int.from_bytes(kid[8:], "big"))))
        if key.state not in ACCEPTABLE:
            raise _RefusedError(Refusal.KEY_RETIRED, f"the key of this epoch is {key.state}")
        self._check_algorithm(one, transfer_algorithm(key.alg))
        opened = self._opened.get(key.id)
        if opened is None:
            raise _RefusedError(Refusal.PARKED, "the stored key does not open: its row was changed; see the log")
        return _cipher(opened.octets, one.frame)

    def _check_algorithm(self, one: _Claimed, alg: int) -> None:
        if one.frame.alg != alg:
            raise _RefusedError(Refusal.ALGORITHM_MISMATCH, f"algorithm {one.frame.alg}, a meter enrols with {alg}")

    def _enrol(self, one: _Claimed) -> Opened:
        """Enrol a kid without a key: all checks in their order, then the signature, then the tag."""
        if self._is_of_its_certificate(one):
            raise ContendedError("its meter enrolled by this certificate after its keys were read")
        title, epoch = one.frame.kid[:8], int.from_bytes(one.frame.kid[8:], "big")
        awaited = self._known.awaited.get(title)
        newest = self._known.epochs.get(title)
        if awaited is None:
            raise _RefusedError(*not_awaited(title, newest))
        _refuse(check_epoch(newest, epoch))
        self._check_algorithm(one, transfer_algorithm(awaited.algorithm))
        certificate = self._certificates[one.octets]
        if isinstance(certificate, str):
            raise _RefusedError(EnrolmentRefusal.CERTIFICATE_INVALID, certificate)
        _refuse(check(certificate, title, one.came_s, settings.CLOCK_SKEW_S, self._known.standing(certificate)))
        authority = self._known.authorities[certificate.signed.kid]
        _refuse(check_only_one(certificate, (other.certificate for other in self.enrolling.values())))
        try:
            verify(certificate.signed, authority.public)
            check_public(certificate.public)
        except (CertificateError, AgreementError) as error:
            raise _RefusedError(EnrolmentRefusal.CERTIFICATE_INVALID, str(error)) from None
        version, cipher, plaintext = self._open_with_any(one, certificate)
        row = key_row(0, 1, KeyState.PENDING.value, awaited.algorithm, awaited.scheme)
        self._keys[one.frame.kid] = CountedKey(settings.COUNTER_GAP_RUNS, row, None, -1, 0)
        self.enrolling[one.frame.kid] = Enrolling(certificate, one.octets, authority.id, version.id, awaited, cipher)
        return self._opened_frame(one.place, one.frame.kid, one.frame.counter, plaintext)

    def _open_with_any(
        self, one: _Claimed, certificate: Certificate
    ) -> tuple[AgreementVersion, DirectionCipher, bytes]:
        """The frame opened by a version that the meter may have been made for."""
        title, epoch = one.frame.kid[:8], int.from_bytes(one.frame.kid[8:], "big")
        for version in self._known.versions_for(certificate.audience):
            private = self._private(version)
            if private is None:
                continue
            try:
                device_key = AGREED.device_key(KeyInputs(certificate.public, title, epoch, private))
                cipher = _cipher(device_key, one.frame)
                return version, cipher, cipher.open_with(one.frame, one.octets)
            except TagInvalidError:
                continue
        raise _RefusedError(Refusal.TAG_INVALID, _BAD_TAG)

    def _private(self, version: AgreementVersion) -> X25519PrivateKey | None:
        if version.id not in self._privates:
            try:
                opened = agreement_keys.open_pair(master_key.current(), *version[1:])
            except UnwrapError:
                self._privates[version.id] = None
            else:
                self._privates[version.id] = opened
        return self._privates[version.id]


_BAD_TAG = "the tag does not fit: forged, damaged, or another certificate's key"


def _cipher(device_key: bytes, frame: Frame) -> DirectionCipher:
    title, epoch = frame.kid[:8], int.from_bytes(frame.kid[8:], "big")
    return DirectionCipher(uplink_key(device_key, title, epoch, frame.alg), frame.alg)


def _certificate(octets: bytes) -> Certificate | str:
    """Return a certificate, or what is wrong with it."""
    try:
        return parse_certificate(octets)
    except CertificateError as error:
        return str(error)
