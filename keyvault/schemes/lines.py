"""The lines of the tables of schemes: what a key source, an envelope and a scheme have. Pure."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keyvault.cose.algorithms import Algorithm
from keyvault.cose.structures import Frame


class OpenedKey:
    """An opened device key (32 octets), with its title and epoch. It cannot be printed, compared or pickled.

    ``agreement_private`` is the head-end's own key of the version that the key's row names, where it names one.
    ``kid_context`` is what the frames at hand say after title and epoch: nothing, where one cipher opens all of a key.
    """

    __slots__ = ("agreement_private", "algorithm", "epoch", "kid_context", "octets", "system_title")

    def __init__(
        self,
        octets: bytes,
        system_title: bytes,
        epoch: int,
        algorithm: int,
        agreement_private: X25519PrivateKey | None = None,
    ) -> None:
        self.octets, self.system_title, self.epoch, self.algorithm = octets, system_title, epoch, algorithm
        self.agreement_private = agreement_private
        self.kid_context = b""

    def __reduce__(self) -> str:
        raise TypeError("a device key is never pickled or copied")


class KeyLacksError(Exception):
    """A device key lacks something that its envelope needs besides it."""


class Cipher(Protocol):
    """Opens the frames of one key."""

    def open_(self, frame: Frame) -> bytes:
        """Return the payload of a frame with a correct tag; TagInvalidError, which does not say why."""
        ...


class Derived(NamedTuple):
    """A value that a frame's protection is computed from, and that is no key: info strings, nonces, AAD."""

    name: str
    octets: bytes


class KeyInputs(NamedTuple):
    """What a device key is computed from: system title (8 octets), epoch, and the 32 stored octets.

    ``kept`` are the octets that are wrapped in the row of the key, or in that of its fleet key. ``agreement_private``
    is the head-end's own key of the version that the row names, where it names one.
    """

    kept: bytes
    system_title: bytes
    epoch: int
    agreement_private: X25519PrivateKey | None = None

    def __repr__(self) -> str:
        return f"KeyInputs(..., {self.system_title.hex()}, {self.epoch})"


class Source(NamedTuple):
    """A key source: how the head-end gets the device key (32 octets) of an epoch.

    ``device_key`` computes it from stored octets: of its row, or with ``is_of_fleet`` of its fleet key.
    """

    name: str
    is_of_fleet: bool
    device_key: Callable[[KeyInputs], bytes]
    reference: str


def _nothing(key: OpenedKey, frame: Frame) -> list[Derived]:
    return []


class Envelope(NamedTuple):
    """An envelope: the form of a frame, and what protects it.

    ``algorithms`` are the COSE algorithms that a key may be provisioned for: the first of them where none is named. A
    frame that begins with one of ``first_octets`` is parsed by ``parse``, which raises MalformedError; where the octets
    of two envelopes begin alike, the longer ones decide. ``cipher`` makes of a device key what opens its frames;
    with ``is_to_agreement_key`` they are sealed to the head-end's agreement key, too.

    What ``parse`` gives names its key by ``kid``: system title and epoch (10 octets), and a kid context after them
    where each session of a key has a cipher and counters of its own; or by the title alone (8), then every key that
    the device may use is tried that is of this envelope and algorithm.

    Frames have up to ``max_octets``, where that is more than the setting FRAME_MAX_OCTETS. With ``has_key_sets`` a
    device key is as many octets as its algorithm says, all others are 32.

    ``derived`` tells, for whoever builds a meter, what the protection of a frame is computed from, and no key.
    """

    name: str
    algorithms: Mapping[int, Algorithm]
    first_octets: tuple[bytes, ...]
    parse: Callable[[bytes], Frame]
    cipher: Callable[[OpenedKey], Cipher]
    reference: str
    is_to_agreement_key: bool = False
    max_octets: int = 0
    has_key_sets: bool = False
    derived: Callable[[OpenedKey, Frame], list[Derived]] = _nothing


class Scheme(NamedTuple):
    """An allowed triple: the names of an envelope and a content, and of the key sources that they go with.

    ``number`` names it in readings, and to meters in key commands; a scheme without one is no meter's. ``caveat`` is
    what its readings lack of protection from end to end, for whoever uses them; empty: nothing. ``algorithms`` are
    those of the envelope that its keys are for; empty: all. Meters of a scheme without ``is_commanded`` take no command
    of ours, and their keys come in shipments. Without ``is_authenticated`` readings may have been changed on their way.
    """

    name: str
    number: int | None
    envelope: str
    content: str
    sources: frozenset[str]
    caveat: str = ""
    algorithms: tuple[int, ...] = ()
    is_commanded: bool = True
    is_authenticated: bool = True


class Named(Protocol):
    """A line of any table."""

    @property
    def name(self) -> str: ...


Line = TypeVar("Line", bound=Named)


class Table(Generic[Line]):
    """The lines of a table by name, in order."""

    def __init__(self, *lines: Line) -> None:
        self._put({line.name: line for line in lines})

    def _put(self, lines: dict[str, Line]) -> None:
        self._lines = lines

    def __getitem__(self, name: str) -> Line:
        return self._lines[name]

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def get(self, name: str) -> Line | None:
        return self._lines.get(name)

    @contextmanager
    def including(self, line: Line) -> Iterator[None]:
        """Add a line, or replace the one of its name, until the block ends; for tests."""
        before = self._lines
        self._put(before | {line.name: line})
        try:
            yield
        finally:
            self._put(before)


class Envelopes(Table[Envelope]):
    """The table of envelopes, which finds the envelope of a frame by its first octets."""

    def _put(self, lines: dict[str, Envelope]) -> None:
        claims = [(first, envelope) for envelope in lines.values() for first in envelope.first_octets]
        by_first_octets = dict(claims)
        if len(by_first_octets) < len(claims):
            raise ValueError(f"two of the envelopes {', '.join(lines)} claim frames that begin with the same octets")
        super()._put(lines)
        self.starts = Starts(by_first_octets, next(iter(lines.values())))

    def of(self, octets: bytes) -> Envelope:
        """Return the envelope of a frame by its first octets; else the first one, which says what is wrong."""
        return self[self.starts[octets[: self.starts.octets]][0]]


class Starts(dict[bytes, tuple[str, Callable[[bytes], Frame]]]):
    """Name and parser of the envelope of a frame, by its first ``octets`` octets.

    A dictionary, because a function call for every frame costs twice as much.
    """

    _KEPT_AT_MOST = 4096  # anybody may send other octets

    def __init__(self, by_first_octets: Mapping[bytes, Envelope], otherwise: Envelope) -> None:
        super().__init__()
        self._claims = sorted(by_first_octets.items(), key=lambda claim: -len(claim[0]))
        self._otherwise = otherwise
        self.octets = max(map(len, by_first_octets))

    def __missing__(self, start: bytes) -> tuple[str, Callable[[bytes], Frame]]:
        envelope = next((one for first, one in self._claims if start.startswith(first)), self._otherwise)
        found = envelope.name, envelope.parse
        if len(self) < self._KEPT_AT_MOST:
            self[start] = found
        return found
