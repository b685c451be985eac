"""Which records of the audit chain were committed, as the key journal says, outside the database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from keyvault import master_key
from keyvault.journal import COMMITTED, RESTORED, reading


@dataclass
class Witness:
    """Macs of committed records by number, as the journals in ``folders`` say, and the faults of those journals.

    ``lost`` records were given up by a restore that did not have the whole journal.
    """

    folders: Sequence[Path]
    committed: dict[int, bytes] = field(default_factory=dict)
    lost: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        """Return the highest number that is known, else 0."""
        return max(self.committed, default=0)


def read(folders: Sequence[Path] | None = None) -> Witness:
    """Read the journals, by default this host's. JournalError if a folder cannot be read.

    A later head of a number does not replace an earlier one: two heads of one number show that a chain was rewritten.
    """
    witness = Witness(folders or [Path(settings.KEY_JOURNAL_DIR)])
    records, witness.faults = reading.read_kinds(
        witness.folders, master_key.provider().fresh(), frozenset({COMMITTED, RESTORED})
    )
    for record in records:
        number, mac = record.body
        if record.kind == COMMITTED:
            witness.committed.setdefault(number, mac)
            continue
        given_up = [later for later in witness.committed if later > number]
        witness.lost += len(given_up)
        for later in given_up:
            del witness.committed[later]
    return witness
