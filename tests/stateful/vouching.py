"""What ought to come of certificates: the part of the model that knows who may enrol, and what enrolled whom."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from tests.stateful.entities import ACCEPTABLE, CLOCK_SKEW_S, TRANSFER_EPOCH, Key, Kid, Sent


class Begun(NamedTuple):
    """An epoch that a frame of the batch at hand enrolled: its key, the certificate's number, and when."""

    key: Key
    cti: bytes
    now: datetime


@dataclass
class Vouching:
    """Who may enrol, with the scheme of the epoch to come; certificates by what they enrolled, and what is barred.

    ``begun`` is of the batch at hand alone: its other frames find the keys that stood before it.
    """

    awaited: dict[bytes, str] = field(default_factory=dict)
    enrolled: dict[Kid, bytes] = field(default_factory=dict)
    newest_s: dict[bytes, int] = field(default_factory=dict)
    publics: dict[bytes, bytes] = field(default_factory=dict)
    revoked: set[bytes] = field(default_factory=set)
    cut_off: set[int] = field(default_factory=set)
    begun: dict[Kid, Begun] = field(default_factory=dict)

    def look(self, sent: Sent, keys: dict[Kid, Key], came_at: datetime) -> Key | str:
        """The key that a frame with a certificate is judged under, a new one where it enrols; or why it is refused."""
        assert sent.certificate is not None
        begun = self.begun.get(sent.kid)
        key, cti = (begun.key, begun.cti) if begun else (keys.get(sent.kid), self.enrolled.get(sent.kid))
        if key is None:
            return self._refusal(sent, keys, int(came_at.timestamp())) or Key(
                "pending", sent.key_name, self.awaited[sent.title]
            )
        if cti != sent.certificate.cti:
            return self._waits_for(sent, keys) if begun else "already_enrolled"
        return key if key.state in ACCEPTABLE else "key_retired"

    @staticmethod
    def _waits_for(sent: Sent, keys: dict[Kid, Key]) -> str:
        """Another certificate of this batch enrols the same epoch: refused for good only once that one stands."""
        return "unknown_epoch" if any(title == sent.title for title, _ in keys) else "unknown_device"

    def _refusal(self, sent: Sent, keys: dict[Kid, Key], came_s: int) -> str | None:
        """The first check that a certificate fails which is to enrol a kid without a key."""
        certificate, epochs = sent.certificate, [epoch for title, epoch in keys if title == sent.title]
        assert certificate is not None
        if sent.title not in self.awaited:
            return "already_enrolled" if epochs else "unknown_device"
        if sent.epoch != max(epochs, default=0) + 1:
            return "unknown_epoch"
        if certificate.expires_s <= came_s:
            return "certificate_expired"
        if certificate.issued_s > came_s + CLOCK_SKEW_S:
            return "certificate_invalid"
        if certificate.cti in self.revoked:
            return "certificate_revoked"
        if certificate.cti in self.enrolled.values():
            return "already_enrolled"
        if certificate.issued_s < self.newest_s.get(sent.title, 0):
            return "certificate_revoked"
        if certificate.public in self.publics:
            return "certificate_invalid"
        return "tag_invalid" if certificate.version in self.cut_off else None

    def enrol(self, sent: Sent, key: Key, now: datetime) -> None:
        """The first frame with a certificate was accepted: its number and public key are used up, for good."""
        certificate = sent.certificate
        assert certificate is not None
        self.begun[sent.kid] = Begun(key, certificate.cti, now)
        self.enrolled[sent.kid] = certificate.cti
        self.newest_s[sent.title] = max(certificate.issued_s, self.newest_s.get(sent.title, 0))
        self.publics[certificate.public] = sent.title
        del self.awaited[sent.title]

    def end_batch(self, keys: dict[Kid, Key]) -> None:
        """The keys of those that enrolled become active, with transfer keys anew; the keys before them end."""
        for (title, epoch), begun in self.begun.items():
            for (owner, other), key in keys.items():
                if owner == title and other != TRANSFER_EPOCH and key.state == "active":
                    key.state, key.retiring_at = "retiring", begun.now
                elif owner == title and other != TRANSFER_EPOCH and key.state == "pending":
                    key.state = "retired"
            begun.key.state = keys.setdefault((title, TRANSFER_EPOCH), Key("active")).state = "active"
            keys[title, epoch] = begun.key
        self.begun = {}
