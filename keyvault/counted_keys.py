"""Device keys with their invocation counters: read for a batch, changed by its frames, written back."""

from datetime import datetime

from keyvault.ciphers import KeyRow
from keyvault.models import KeyState
from keyvault.replay_window import CounterSet, Take, parse_gaps
from keyvault.schemes.dlms.security import LAST_COUNTER
from keyvault.schemes.lines import Cipher
from keyvault.schemes.session import opened_at

# The states of keys whose frames are opened.
ACCEPTABLE = frozenset({KeyState.PENDING.value, KeyState.ACTIVE.value, KeyState.RETIRING.value})


class ContendedError(Exception):
    """Another transaction took counters or moved keys of these uplinks meanwhile: roll back and try again."""


class CountedKey(CounterSet):
    """A device key's row and counters in this transaction, and what they were when they were read.

    ``cipher`` opens its frames; None if it is not cached yet.

    If ``floor`` is None, only ``highest`` is known, because it was predicted from the frames (``is_foreseen``). That is
    enough for counters that follow it in steps of one, and only for these.

    ``opened_s`` is when the session of these counters began (Unix seconds), or 0 if they are the key's own.
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
        """Replace predicted counters by those in the database. No counter may have been taken yet."""
        self.highest = self.highest_was = highest
        self.floor = self.floor_was = floor
        self.gaps, self.gaps_were = parse_gaps(gaps) if gaps else [], gaps
        self.is_foreseen = False


class CountedSet(CountedKey):
    """A key set of DLMS. Once its last counter is taken, it is used up: late frames are refused, too."""

    __slots__ = ()

    def take(self, counter: int) -> Take:
        """Take a counter; the last one closes all gaps (Green Book Ed. 8 section 9.2.3.3.7.3)."""
        take = super().take(counter)
        if counter == LAST_COUNTER and take is Take.TAKEN:
            self.use_up()
        return take


class CountedSession(CountedKey):
    """A session of a device key: the key's row with the counters of the session.

    ``is_known``: the session has a row. A session without a row is new if its kid context is above the key's
    ``session_floor``; otherwise it was deleted, and takes no counter (``is_closed``).
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
        """Return what ``take`` would; CLOSED if the session was deleted."""
        return Take.CLOSED if self.is_closed else super().look(counter)

    def take(self, counter: int) -> Take:
        """Take a counter; CLOSED if the session was deleted."""
        return Take.CLOSED if self.is_closed else super().take(counter)
