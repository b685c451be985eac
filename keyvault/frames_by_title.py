"""Frames that name a system title alone: the keys that their device may use are tried, and the tag decides.

A worker tries first the key that opened the title's last frame: it is cached, and its counter predicted, as if the
frame had named it. Only for frames that it does not open are all keys of their titles read.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from keyvault.ciphers import KeptCiphers, KeyRow
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import SYSTEM_TITLE_OCTETS, Frame
from keyvault.counted_keys import ACCEPTABLE, ContendedError, CountedKey
from keyvault.replay_window_store import Care, read_ended, read_keys
from keyvault.schemes.lines import Cipher

_TRIED_UNDER_ENDED = 100  # frames of a batch: others could make us open keys for garbage


def titles_in(names: Collection[bytes]) -> list[bytes]:
    """Return those of the names (kids, or only titles) that are titles."""
    return [name for name in names if len(name) == SYSTEM_TITLE_OCTETS]


def read_all(
    titles: Collection[bytes], keys: dict[bytes, CountedKey], care: Care, ciphers: KeptCiphers
) -> dict[bytes, CountedKey]:
    """Read all usable keys of titles, and return those that ``keys`` did not have; one query.

    Counters of ``keys`` that were only predicted become those in the database. ContendedError if a key changed since
    it was cached.
    """
    added = {}
    for kid, key in read_keys(titles, {}, care, ciphers).items():
        there = keys.get(kid)
        if there is None:
            added[kid] = key
        elif (there.id, there.version) != (key.id, key.version):
            ciphers.forget(kid)
            raise ContendedError("a key changed since its cipher was cached")
        elif there.is_foreseen:
            there.know(key.highest, key.floor, key.gaps_were)
    keys.update(added)
    return added


class KeysOfTitles:
    """The keys of titles in a batch that may open frames which name only the title."""

    def __init__(self, keys: Mapping[bytes, CountedKey], titles: Collection[bytes]) -> None:
        self._of_title: dict[bytes, list[tuple[bytes, CountedKey]]] = {title: [] for title in titles}
        for kid, key in keys.items():
            # Anybody can name a session of a key set: its counters would be none of the set's.
            if len(kid) == KID_OCTETS and key.state in ACCEPTABLE and kid[:8] in self._of_title:
                self._of_title[kid[:8]].append((kid, key))

    def likeliest(self, envelope: str, frame: Frame) -> list[tuple[bytes, CountedKey]]:
        """Return the keys, with their kids, that may open a frame, the likeliest first.

        The likeliest is for this envelope and alg, and its highest counter is the nearest below the frame's.
        """
        counter = frame.counter
        of_title = self._of_title[frame.kid]
        if len(of_title) < 2:
            return of_title
        return sorted(
            of_title,
            key=lambda one: (
                not _is_for(one[1], envelope, frame.alg),
                one[1].highest >= counter,
                abs(counter - one[1].highest),
            ),
        )


def open_first(
    envelope: str, frame: Frame, likeliest: Sequence[tuple[bytes, CountedKey]]
) -> tuple[bytes, CountedKey, bytes] | None:
    """Open a frame with the first key whose tag verifies: its kid, the key, the payload. None if none does."""
    for kid, key in likeliest:
        if key.cipher is not None and _is_for(key, envelope, frame.alg):
            with suppress(TagInvalidError):
                return kid, key, key.cipher.open_(frame)
    return None


def _is_for(key: CountedKey, envelope: str, alg: int) -> bool:
    return key.alg == alg and key.envelope == envelope


class Unopened(NamedTuple):
    """A frame that opens under no key that may be used, and its envelope."""

    envelope: str
    frame: Frame


def ended_keys(unopened: Sequence[Unopened]) -> list[str | None]:
    """Return, for each frame, the state of the ended key that opens it; None if none does, or too many were asked.

    Two queries.
    """
    tried = unopened[:_TRIED_UNDER_ENDED]
    rows = read_ended({one.frame.kid for one in tried})
    of_title: dict[bytes, list[tuple[KeyRow, Cipher]]] = {}
    for kid, cipher in KeptCiphers().of(rows).items() if rows else ():
        of_title.setdefault(kid[:8], []).append((rows[kid], cipher))
    states = [_state_of_opener(one, of_title.get(one.frame.kid, ())) for one in tried]
    return states + [None] * (len(unopened) - len(tried))


def _state_of_opener(one: Unopened, ended: Sequence[tuple[KeyRow, Cipher]]) -> str | None:
    for row, cipher in ended:
        if (row.envelope, row.algorithm) == (one.envelope, one.frame.alg):
            with suppress(TagInvalidError):
                cipher.open_(one.frame)
                return row.state
    return None
