"""Device keys with their invocation counters as one transaction sees them: read for a batch, moved, written back."""

from datetime import datetime

from keyvault.ciphers import KeyRow
from keyvault.replay_window import CounterSet, Take, parse_gaps
from keyvault.schemes.dlms.security import LAST_COUNTER
from keyvault.schemes.lines import Cipher
from keyvault.schemes.session import opened_at


class ContendedError(Exception):
    """Another transaction took counters or moved keys of these uplinks meanwhile: roll back and try again."""


class CountedKey(CounterSet):
    """A device key's row and counters as this transaction sees them, and what they were when it looked.

    ``cipher`` opens its frames; None where it is not kept, yet.

    ``floor`` None: only ``highest`` is known, since it is what the frames foresaw (``is_foreseen``). That does for
    counters that follow it one by one, and for no others.

    ``opened_s`` is when the session began that the counters are of (Unix seconds), 0 where they are the key's own.
    """

    context = b""
    opened_s = 0

    __slots__ = (
        "alg",
        "cipher",
        "content",
        "envelope",
        "floor_was",
        "gaps_were",
        "heard_at",
        "heard_via",
        "highest_was",
        "id",
        "is_foreseen",
        "row",
        "scheme",
        "state",
        "version",
    )

    def __init__(
        self,
        max_gap_runs: int,
        row: KeyRow,
        cipher: Cipher | None,
        highest: int,
        floor: int | None = None,
        gaps: str | None = None,
    ) -> None:
        super().__init__(max_gap_runs, highest, floor or 0, parse_gaps(gaps) if gaps else None)
        self.row, self.cipher = row, cipher
        self.id, self.version, self.state, self.alg, self.envelope, self.content, self.scheme = row
        self.highest_was, self.floor_was, self.gaps_were = highest, floor, gaps
        self.is_foreseen = floor is None
        self.heard_at: datetime | None = None
        self.heard_via = 0

    @property
    def moved(self) -> bool:
        """Whether a counter was taken."""
        return self.highest != self.highest_was or self.gaps_changed

    def know(self, highest: int, floor: int, gaps: str | None) -> None:
        """Go on from the counters as they stand, where they were foreseen; none may have been taken yet."""
        self.highest = self.highest_was = highest
        self.floor = self.floor_was = floor
        self.gaps, self.gaps_were = parse_gaps(gaps) if gaps else [], gaps
        self.is_foreseen = False


class CountedSet(CountedKey):
    """A key set of DLMS: once its last counter is taken it is used up, and late ones are refused, too."""

    __slots__ = ()

    def take(self, counter: int) -> Take:
        """As of any counters; the last one closes all gaps (Green Book Ed. 8 section 9.2.3.3.7.3)."""
        take = super().take(counter)
        if counter == LAST_COUNTER and take is Take.TAKEN:
            self.use_up()
        return take


class CountedSession(CountedKey):
    """A session of a device key, with its own counters, beside the key's row.

    ``is_known`` where it has a row. One without a row is new; or it was given up, where its kid context is not above
    the key's ``session_floor``: then it takes nothing.
    """

    __slots__ = ("context", "is_closed", "is_known", "opened_s")

    def __init__(
        self,
        max_gap_runs: int,
        row: KeyRow,
        cipher: Cipher | None,
        context: bytes,
        highest: int | None,
        floor: int | None = None,
        gaps: str | None = None,
        session_floor: bytes = b"",
    ) -> None:
        self.is_known = highest is not None
        if highest is None:
            highest, floor = -1, 0
        super().__init__(max_gap_runs, row, cipher, highest, floor, gaps)
        self.context = context
        self.opened_s = opened_at(context)
        self.is_closed = not self.is_known and context <= session_floor

    def look(self, counter: int) -> Take:
        """As of any counters; CLOSED where the session was given up."""
        return Take.CLOSED if self.is_closed else super().look(counter)

    def take(self, counter: int) -> Take:
        """As of any counters; CLOSED where the session was given up."""
        return Take.CLOSED if self.is_closed else super().take(counter)
