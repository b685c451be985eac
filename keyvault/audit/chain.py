"""The audit chain: every act on keys, append-only, each record bound to the one before by HMAC.

``verify`` finds rows that somebody without the audit key changed, removed or cut off in the database. To find a cut at
the end it needs a head that was exported before (to the log, or in a backup).
"""

import getpass
import hmac
import json
import logging
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cbor2
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from ami_headend.core import locks
from ami_headend.core.text import counted
from keyvault import journal, master_key
from keyvault.journal import JournalError, audit_commits
from keyvault.master_key import Purpose, UnwrapError
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.models import AuditKey, AuditRecord

logger = logging.getLogger(__name__)

GENESIS = bytes(32)
KEY_OWNER = b"audit"  # in the AAD of the wrapped audit key
NAMED_MAX = 100  # things that a record of many names; it says how many there were
_MAC_OCTETS = 32
_BATCH = 2_000


class AuditError(Exception):
    """The chain is broken, or its key does not open: somebody changed it, or the master key is of another database."""


class Actor(NamedTuple):
    """Who acts, and from where: an account and its address, or a system user and a command.

    ``account_id`` is the account, or the one that made the token of a program: names change. None for commands.
    """

    name: str
    source: str
    account_id: int | None = None


class Head(NamedTuple):
    """The end of the chain: number and mac of the last record. A copy kept elsewhere reveals a cut."""

    number: int
    mac: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.mac.hex()}"


def command_actor() -> Actor:
    """Return the actor of a management command: the system user, the host, and the name of the command."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "unknown"
    command = " ".join(Path(word).name if index == 0 else word for index, word in enumerate(sys.argv[:2]))
    return Actor(name, f"{command} on {socket.gethostname()}"[:100])


class Requested(Protocol):
    """What this module needs of a request, of pages or REST: the account, and the address."""

    user: Any
    META: dict[str, Any]


def web_actor(request: Requested) -> Actor:
    """Return the actor of a request: the account or program, and its address."""
    account_id: int | None = getattr(request.user, "maker_id", request.user.pk)
    return Actor(request.user.get_username(), request.META.get("REMOTE_ADDR", ""), account_id)


def record(actor: Actor, act: str, subject: Mapping[str, Any], result: str = "done") -> Head:
    """Append one record, in the caller's transaction if there is one, and write the new head to the log.

    ``subject`` names keys by id and fingerprint, never by octets; an act on a batch is one record. AuditError or
    MasterKeyError if the audit key or the journal cannot be used: then the act must not happen either.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        # The lock of the journal comes first, as in a replay: in another order the two would deadlock.
        cursor.execute(
            """WITH journal AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(%s))
               SELECT pg_advisory_xact_lock(%s) FROM journal""",
            [locks.KEY_JOURNAL, locks.AUDIT_CHAIN],
        )
        key = _key()
        last = AuditRecord.objects.order_by("-number").values_list("number", "mac").first() or (0, GENESIS)
        if not last[0]:
            _check_beginning()
        row = AuditRecord(
            number=last[0] + 1,
            at=timezone.now(),
            actor=actor.name[:150],
            source=actor.source[:100],
            act=act,
            subject=dict(subject),
            result=result[:250],
        )
        row.mac = _mac(key, bytes(last[1]), row)
        row.save(force_insert=True)
        noted = journal.append("audit", [_content(row), row.mac])
        head = Head(row.number, row.mac)
        transaction.on_commit(lambda: journal.note(noted, journal.COMMITTED, [row.number, row.mac]))
        transaction.on_commit(lambda: logger.info("audit head %s (%s by %s)", head, act, actor.name))
    return head


def _check_beginning() -> None:
    """AuditError if the key journal knows a chain: then no other one is begun."""
    try:
        known = audit_commits.read()
    except JournalError:
        return  # the very first act makes the folder
    if known.committed:
        raise AuditError(
            f"the key journal in {known.folders[0]} knows an audit chain of {counted(known.last, 'record')}, and the "
            "database has none: it was removed, or this is another database. Restore it (manage.py restore); for a "
            "head-end that is really new, move that folder away first"
        )


def carry_on(records: Iterable[tuple[dict[str, Any], bytes]]) -> int:
    """Append the records that the chain had before a restore, (content, mac) from the key journal; return how many.

    Records come in the order of their numbers; the first that does not follow on the previous one ends it.
    """
    with transaction.atomic():
        locks.take(locks.AUDIT_CHAIN)
        last = head()
        key = _key()
        rows = []
        for content, mac in records:
            row = AuditRecord(**{**content, "at": datetime.fromisoformat(content["at"])}, mac=mac)
            if row.number != last.number + 1 or not hmac.compare_digest(mac, _mac(key, last.mac, row)):
                break
            rows.append(row)
            last = Head(row.number, mac)
        AuditRecord.objects.bulk_create(rows)
    return len(rows)


def last_at() -> datetime | None:
    """Return when the last act was recorded; None if there is none."""
    return AuditRecord.objects.order_by("-number").values_list("at", flat=True).first()


def head() -> Head:
    """Return number and mac of the last record; number 0 if there is none."""
    last = AuditRecord.objects.order_by("-number").values_list("number", "mac").first()
    return Head(0, GENESIS) if last is None else Head(last[0], bytes(last[1]))


def verify(known: Head | None = None, journaled: Mapping[int, bytes] | None = None) -> Head:
    """Verify the whole chain and return its head. ``keyvault.audit.witness`` compares it with the key journal, too.

    AuditError names the first record that was changed, is missing or out of place, or says that the chain ends before
    a head ``known`` from elsewhere, or disagrees with it or with the macs ``journaled`` by number.
    """
    journaled = journaled or {}
    if not AuditRecord.objects.exists():
        if journaled:
            raise AuditError(
                f"the chain is empty; the key journal knows {counted(max(journaled), 'record')}: it was removed"
            )
        if known is not None and known.number > 0:
            raise AuditError(f"the chain is empty; it had {counted(known.number, 'record')}: it was cut off")
        return Head(0, GENESIS)
    key = _key()
    previous = Head(0, GENESIS)
    for row in AuditRecord.objects.order_by("number").iterator(chunk_size=_BATCH):
        if row.number != previous.number + 1:
            raise AuditError(f"records {previous.number + 1} to {row.number - 1} are missing")
        mac = _mac(key, previous.mac, row)
        if not hmac.compare_digest(mac, bytes(row.mac)):
            raise AuditError(f"record {row.number} was changed, or put in by someone without the audit key")
        if known is not None and known.number == row.number and not hmac.compare_digest(known.mac, mac):
            raise AuditError(f"record {row.number} is not the one whose head was exported: the chain was rewritten")
        if not hmac.compare_digest(journaled.get(row.number, mac), mac):
            raise AuditError(f"record {row.number} is not the one that the key journal knows: the chain was rewritten")
        previous = Head(row.number, mac)
    if (last := max(journaled, default=0)) > previous.number:
        raise AuditError(
            f"the chain ends at record {previous.number}; the key journal knows that it went on to {last}: "
            "it was cut off"
        )
    if known is not None and known.number > previous.number:
        raise AuditError(f"the chain ends at record {previous.number}; it went on to {known.number}: it was cut off")
    return previous


def seal(what: str, content: Sequence[Any]) -> bytes:
    """Return a MAC (32 octets) under the audit key over a fact, which nobody can make without that key.

    ``what`` names the kind of fact, ``content`` is anything that CBOR encodes. AuditError if the audit key does not
    open.
    """
    [mac] = seal_all(what, [content])
    return mac


def seal_all(what: str, contents: Sequence[Sequence[Any]]) -> list[bytes]:
    """Return the MACs over several facts of one kind, as ``seal`` does. One query; none without facts."""
    if not contents:
        return []
    key = _key()
    return [hmac.digest(key, cbor2.dumps([what, content], canonical=True), "sha256") for content in contents]


def naming(word: str) -> QuerySet[AuditRecord, int]:
    """Return the numbers of records whose subject contains a text: a system title in hex, a fingerprint, a name.

    A record about many devices names only the first hundred.
    """
    found = AuditRecord.objects.extra(
        where=["to_tsvector('simple', subject) @@ phraseto_tsquery('simple', %s)"], params=[word]
    )
    return found.values_list("number", flat=True)


def export() -> Iterator[str]:
    """Yield the chain as JSON Lines, one record on each line, the oldest first; macs are in hex."""
    for row in AuditRecord.objects.order_by("number").iterator(chunk_size=_BATCH):
        yield json.dumps({**_content(row), "mac": bytes(row.mac).hex()}, separators=(",", ":"), sort_keys=True)


def _content(row: AuditRecord) -> dict[str, Any]:
    return {
        "number": row.number,
        "at": row.at.isoformat(timespec="microseconds"),
        "actor": row.actor,
        "source": row.source,
        "act": row.act,
        "subject": row.subject,
        "result": row.result,
    }


def _mac(key: bytes, previous: bytes, row: AuditRecord) -> bytes:
    return hmac.digest(key, cbor2.dumps([previous, _content(row)], canonical=True), "sha256")


def _key() -> bytes:
    """Return the audit key; the first use makes it, under the lock of the chain."""
    row = AuditKey.objects.first()
    master = master_key.current()
    if row is None:
        master = keys_for_wrapping()
        if AuditRecord.objects.exists():
            raise AuditError("the audit key is gone while records stand: someone removed it")
        _check_beginning()
        wrapped = master.wrap(secrets.token_bytes(_MAC_OCTETS), Purpose.AUDIT_KEY, KEY_OWNER)
        row = AuditKey.objects.create(wrapped=wrapped, master_key_version=master.active_version)
        journal.append("audit_key", [wrapped, master.active_version])
    try:
        return master.unwrap(bytes(row.wrapped), Purpose.AUDIT_KEY, KEY_OWNER)
    except UnwrapError as error:
        raise AuditError(f"the audit key does not open: {error}") from None
