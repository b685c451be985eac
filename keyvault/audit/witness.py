"""Compares the audit chain with the key journal.

The journal notes the head of every record once it is committed. Whoever owns the database can cut the chain at its
end, or begin another one; then the journal knows records that the chain lacks.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ami_headend.core.text import counted
from keyvault.audit import chain
from keyvault.audit.chain import Head
from keyvault.journal import audit_commits
from keyvault.journal.audit_commits import Witness
from keyvault.master_key import MasterKeyError


class Verified(NamedTuple):
    """The head of a chain that was verified, and what is known about its end, in sentences."""

    head: Head
    is_borne_out: bool  # the last record that the journal knows is the last one of the chain
    notes: list[str]

    def __str__(self) -> str:
        records = counted(self.head.number, "record")
        return " ".join([f"{records}, none changed, put in or taken out between them.", *self.notes])


def verify(known: Head | None = None, folders: Sequence[Path] | None = None) -> Verified:
    """Verify the chain, and compare it with the journals in ``folders`` (default: this host's) and a head ``known``.

    AuditError names the first record that was changed, is missing, or differs. JournalError if a given folder cannot
    be read; if it is this host's own, the notes say so.
    """
    try:
        witness = audit_commits.read(folders)
    except MasterKeyError as error:
        if folders:
            raise
        return Verified(chain.verify(known), False, [f"Whether its end was cut off is not known: {error}."])
    head = chain.verify(known, witness.committed)
    return Verified(head, witness.last == head.number, list(_notes(head, witness)))


def _notes(head: Head, witness: Witness) -> Iterator[str]:
    places = ", ".join(map(str, witness.folders))
    if witness.last == head.number:
        if head.number:
            yield f"The key journal in {places} knows the last one, and none after it: its end was not cut off."
    elif witness.committed:
        yield (
            f"The key journal in {places} knows record {witness.last:,} and none after it: what was cut off at the end "
            "and recorded on another host it cannot tell (--journal, or --head)."
        )
    else:
        yield f"The key journal in {places} knows none of them: whether the end was cut off it cannot tell (--head)."
    if witness.lost:
        lost = counted(witness.lost, "record was", "records were")
        yield f"{lost} given up by a restore that had not the whole journal."
    if witness.faults:
        yield f"Parts of the journal cannot be read: {'; '.join(witness.faults)}."
