"""A backup of the head-end, and a restore of it: the real journal and its replay, over the rows of an old state."""

import itertools
from datetime import timedelta
from typing import NamedTuple

import pytest
from django.conf import settings

from ami_headend.backup import restoring
from concentrators.commands import downlink
from concentrators.ingest import verification
from concentrators.ingest.transaction_retry import TransientError
from keyvault import backups
from keyvault.master_key import census
from keyvault.models import DeviceKey
from tests.stateful import database
from tests.stateful.entities import ACCEPTABLE, TRANSFER_EPOCH, Key
from tests.stateful.headend import ACTOR, HeadEnd, clock
from tests.stateful.model import Truth

_numbers = itertools.count(1)
# What a worker that died had written to the journal and not committed may come true by the replay.
_BY_THE_DEAD = {
    (None, "pending"),
    (None, "active"),
    ("pending", None),
    ("pending", "active"),
    ("active", "retiring"),
    ("retiring", "retired"),
}


class Saved(NamedTuple):
    """A backup, what was true then, and the versions of the master key that it needs."""

    dump: database.Dump
    truth: Truth
    versions: set[int]


def back_up(site: HeadEnd) -> Saved:
    """As ``manage.py backup`` does it, but for the programs."""
    backup = backups.register(f"backup {next(_numbers)}", "here", clock.now + timedelta(days=400), ACTOR, clock.now)
    with backups.snapshot():
        saved = Saved(database.dump(), site.truth.copy(), {count.version for count in census.census()})
    backups.finish(backup, bytes(32), 0, ACTOR, clock.now)
    return saved


def restore(site: HeadEnd, saved: Saved) -> None:
    """The database is lost and an old state put back. Until the journal was replayed nothing is verified or sealed."""
    names = {kid: name for kid, (name, _) in database.key_kinds().items()}
    database.load(saved.dump)
    for worker in site.workers:
        worker.restart()
    before, site.truth = site.truth, saved.truth.copy()
    # The catalogue is no part of the dumps of these tests.
    site.truth.registers, site.truth.wrong_registers = before.registers, before.wrong_registers
    for uplink_id in site.unverified()[:1]:
        with pytest.raises(TransientError):
            verification.verify(uplink_id)
    assert [downlink.offer(concentrator, 10, clock.now) for concentrator in site.concentrators] == [[], []]
    restoring.replay_journal([settings.KEY_JOURNAL_DIR], ACTOR, clock.now)
    for kid, (name, _) in database.key_kinds().items():
        assert name == names.get(kid, name) or site.was_shipped(name), f"key {kid} is another one after the restore"
    _take_over_keys(site.truth, before)
    _take_over_enrolments(site.truth, before)
    site.settle()


def _take_over_keys(truth: Truth, before: Truth) -> None:
    """Keys are what they were before the restore, though the frames that came under them since are forgotten."""
    rows = {(bytes(row.system_title), row.epoch): row for row in DeviceKey.objects.all()}
    for kid in {*rows, *before.keys, *truth.keys}:
        row, old = rows.get(kid), before.keys.get(kid)
        was, now = None if old is None else old.state, None if row is None else row.state
        replaced = kid[1] == TRANSFER_EPOCH and (was, now) == ("compromised", "active")
        assert was == now or (was, now) in _BY_THE_DEAD or replaced, (
            f"key {kid} was {was}, and is {now} after the restore"
        )
        if old is not None and old.given_away and was in ACCEPTABLE:
            assert now in (*ACCEPTABLE, "retired"), "a key that a meter may have is gone"
        if row is None:
            truth.keys.pop(kid, None)
            continue
        key = truth.keys.setdefault(kid, Key(row.state))
        key.name, key.scheme = bytes(row.fingerprint or b""), row.scheme
        key.state, key.retiring_at = row.state, row.retiring_at
        key.given_away |= old is not None and old.given_away


def _take_over_enrolments(truth: Truth, before: Truth) -> None:
    """Who may enrol, what enrolled whom, and what is barred is as before the restore; a worker that died may have
    enrolled a meter.
    """
    truth.vouching = before.vouching
    known, enrolled = truth.vouching.enrolled, database.enrolled()
    for kid in enrolled.keys() - known.keys():
        known[kid] = enrolled[kid]
        if kid[0] not in database.awaited():
            truth.vouching.awaited.pop(kid[0], None)
