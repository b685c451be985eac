"""The audit chain, held against what the key journal knows of it.

Every record's head is noted in the journal once it is committed. Whoever owns the database can cut the chain at its
end, or begin another one; then the journal knows records that the chain has not.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from keyvault.audit import chain
from keyvault.audit.chain import Head
from keyvault.journal import audit_commits
from keyvault.journal.audit_commits import Witness
from keyvault.master_key import MasterKeyError


class Verified(NamedTuple):
    """The head of a chain that was walked, and what is known of its end, a sentence each."""

    head: Head
    is_borne_out: bool  # the journal knows its last record, and none after it
    notes: list[str]

    def __str__(self) -> str:
        return " ".join([f"{self.head.number:,} records, none changed, put in or taken out between them.", *self.notes])


def verify(known: Head | None = None, folders: Sequence[Path] | None = None) -> Verified:
    """Walk the chain, and hold it against the journals in ``folders`` (this host's) and a head ``known``.

    AuditError names the first record that was changed, is missing or another one. JournalError where a folder that
    was named cannot be read; of this host's own journal the notes say so.
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
        yield f"{witness.lost:,} records were given up by a restore that had not the whole journal."
    if witness.faults:
        yield f"Parts of the journal cannot be read: {'; '.join(witness.faults)}."
