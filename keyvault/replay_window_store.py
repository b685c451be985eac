"""Keys with their invocation counters, as the database has them: read for a batch, written back by compare-and-set."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from django.conf import settings

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault.ciphers import KeptCiphers, KeyRow, key_row
from keyvault.cose.structures import make_kid
from keyvault.device_keys.provisioning import TRANSFER_EPOCH
from keyvault.replay_window import CounterSet, format_gaps, parse_gaps
from keyvault.schemes.lines import Cipher

_TRANSFER_EPOCH = TRANSFER_EPOCH.to_bytes(2, "big")
_NOT_FORESEEN = -2


class Care(Enum):
    """How much is known of counters before frames are judged; the write back holds for all three."""

    TRUST = "what the frames foresee of kept keys is taken for true"
    LOOK = "what the frames foresee is compared with the database"
    LOCK = "counters are read under their row locks, taken in title order"


class ContendedError(Exception):
    """Another transaction took counters or moved keys of these uplinks meanwhile: roll back and try again."""


class CountedKey(CounterSet):
    """A device key's row and counters as this transaction sees them, and what they were when it looked.

    ``cipher`` opens its frames; None where it is not kept, yet.

    ``floor`` None: only ``highest`` is known, since it is what the frames foresaw (``is_foreseen``). That does for
    counters that follow it one by one, and for no others.
    """

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


_READ_KEYS = """
    SELECT t.n, k.epoch, k.id, k.version, k.state, k.algorithm, k.scheme, c.highest, c.floor,
           CASE WHEN isempty(c.gaps) THEN NULL ELSE c.gaps::text END
    FROM unnest(%s::bytea[], %s::int[]) WITH ORDINALITY AS t(title, epoch, n)
    JOIN keyvault_devicekey k ON k.system_title = t.title AND k.epoch = t.epoch
    JOIN keyvault_invocationcounter c ON c.key_id = k.id
"""
# Where frames name titles alone (epoch -1): every key that those devices may use.
_ANY_EPOCH = -1
_READ_KEYS_OF_TITLES = _READ_KEYS.replace(
    "k.epoch = t.epoch",
    "(k.epoch = t.epoch OR t.epoch = -1 AND k.epoch > 0 AND k.state IN ('pending', 'active', 'retiring'))",
)
_LOCKED = "ORDER BY k.system_title, k.epoch FOR UPDATE OF c"
# Of a key that is kept, the counter's copy of its version tells whether it still is what it was. Of one whose highest
# counter was foreseen (-2: it was not), nothing is said where that holds.
_READ_UNFORESEEN = """
    SELECT t.n, c.key_version IS NOT DISTINCT FROM t.version, c.highest, c.floor,
           CASE WHEN isempty(c.gaps) THEN NULL ELSE c.gaps::text END
    FROM unnest(%s::int[], %s::int[], %s::bigint[]) WITH ORDINALITY AS t(key_id, version, foreseen, n)
    LEFT JOIN keyvault_invocationcounter c ON c.key_id = t.key_id
    WHERE c.highest IS DISTINCT FROM t.foreseen OR c.key_version IS DISTINCT FROM t.version
"""

# The usual uplink only goes ahead, and leaves the gaps alone.
# Uplinks may be verified in another order than they came in: "last heard" never goes back.
_HEARD = """
        heard_at = greatest(c.heard_at, t.times[n.heard]),
        heard_via = CASE WHEN n.heard > 0 AND (c.heard_at > t.times[n.heard]) IS NOT TRUE
                         THEN n.via ELSE c.heard_via END
    FROM (SELECT %s::timestamptz[] AS times) AS t,
"""
_UNMOVED = "WHERE c.key_id = n.key_id AND c.key_version = n.version AND c.highest = n.was"
_SAVE_AHEAD = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[])
         AS n(key_id, version, was, highest, heard, via)
    {_UNMOVED}
"""
_SAVE_GAPS = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, gaps = coalesce(n.gaps, c.gaps), floor = coalesce(n.floor, c.floor), {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[],
                %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[])
         AS n(key_id, version, was, highest, heard, via, gaps_were, gaps, floor_was, floor)
    {_UNMOVED} AND (n.gaps_were IS NULL OR (c.gaps = n.gaps_were AND c.floor = n.floor_was))
"""


def read_keys(
    names: Collection[bytes], foreseen: Mapping[bytes, int], care: Care, ciphers: KeptCiphers
) -> dict[bytes, CountedKey]:
    """The keys that frames name, with their counters, by kid.

    A name is a kid (10 octets), or a title alone (8): then it means every key that its device may use. The transfer
    key protects no uplink and is never among them. ``foreseen`` is what the highest counter of a kid ought to be:
    where it is, and the key is kept, nothing more is read of it; nothing at all with Care.TRUST.
    """
    wanted = [name for name in names if name[8:] != _TRANSFER_EPOCH]
    keys = {} if care is Care.LOCK else _read_kept(wanted, foreseen, care, ciphers)
    if len(keys) < len(wanted):
        _read_rows([name for name in wanted if name not in keys], keys, care)
    return keys


def _read_rows(names: Sequence[bytes], keys: dict[bytes, CountedKey], care: Care) -> None:
    """Add the keys of those names, as one query finds them."""
    epochs = [int.from_bytes(name[8:], "big") if len(name) > 8 else _ANY_EPOCH for name in names]
    statement = _READ_KEYS_OF_TITLES if _ANY_EPOCH in epochs else _READ_KEYS
    if care is Care.LOCK:
        statement += _LOCKED
    rows = fetch_rows(statement, octets_array(name[:8] for name in names), int_array(epochs))
    runs = settings.COUNTER_GAP_RUNS
    for n, epoch, key_id, version, state, algorithm, scheme, *counters in rows:
        row = key_row(key_id, version, state, algorithm, scheme)
        keys[make_kid(names[n - 1][:8], epoch)] = CountedKey(runs, row, None, *counters)


def _read_kept(
    kids: Collection[bytes], foreseen: Mapping[bytes, int], care: Care, ciphers: KeptCiphers
) -> dict[bytes, CountedKey]:
    """The keys whose ciphers are kept and whose rows still stand, with their counters: one look at a narrow table."""
    kept = ciphers.kept(kids)
    runs = settings.COUNTER_GAP_RUNS
    highest = foreseen.get
    keys = {kid: CountedKey(runs, row, cipher, highest(kid, _NOT_FORESEEN)) for kid, (row, cipher) in kept.items()}
    looked_at = list(keys)
    if care is Care.TRUST:
        looked_at = [kid for kid in looked_at if kid not in foreseen]
    if not looked_at:
        return keys
    unforeseen = fetch_rows(
        _READ_UNFORESEEN,
        int_array([keys[kid].id for kid in looked_at]),
        int_array([keys[kid].version for kid in looked_at]),
        int_array([keys[kid].highest for kid in looked_at]),
    )
    for n, stands, *counters in unforeseen:
        kid = looked_at[n - 1]
        if stands:
            keys[kid] = CountedKey(runs, *kept[kid], *counters)
        else:
            del keys[kid]
            ciphers.forget(kid)
    return keys


def save_keys(keys: Sequence[CountedKey]) -> None:
    """Write back the counters that keys took, in title order, by compare-and-set on counter and key version.

    Raises ContendedError where one moved since it was read, or did not go on as it was foreseen.
    """
    if not any(key.gaps_changed for key in keys):
        _save(_SAVE_AHEAD, keys, [])
        return
    if any(key.gaps_changed and key.is_foreseen for key in keys):
        raise ContendedError("a frame did not open, and a counter that was foreseen was not taken")
    # All in one statement: two of them would lock rows in another order than title order, and deadlock.
    _save(
        _SAVE_GAPS,
        keys,
        [
            [None if key.is_foreseen else key.gaps_were or "{}" for key in keys],
            [None if key.is_foreseen else format_gaps(key.gaps) for key in keys],
            [None if key.is_foreseen else key.floor_was for key in keys],
            [None if key.is_foreseen else key.floor for key in keys],
        ],
    )


def _save(statement: str, keys: Sequence[CountedKey], more: list[list[Any]]) -> None:
    if not keys:
        return
    times = sorted({key.heard_at for key in keys if key.heard_at is not None})
    place_of: dict[datetime | None, int] = {None: 0} | {at: place for place, at in enumerate(times, 1)}
    saved = execute(
        statement,
        times,
        int_array([key.id for key in keys]),
        int_array([key.version for key in keys]),
        int_array([key.highest_was for key in keys]),
        int_array([key.highest for key in keys]),
        int_array([place_of[key.heard_at] for key in keys]),
        int_array([key.heard_via for key in keys]),
        *more,
    )
    if saved != len(keys):
        raise ContendedError(f"{len(keys) - saved} of {len(keys)} counters moved meanwhile")
