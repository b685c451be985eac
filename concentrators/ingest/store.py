"""Stores the decisions of a batch, in the caller's transaction, in an order that others rely on."""

from collections.abc import Mapping
from types import MappingProxyType

from concentrators.commands import queue
from concentrators.commands.queue import AnswerKind, CommandAnswer
from concentrators.failures import record
from concentrators.feed import lots
from concentrators.feed.rows import Change
from concentrators.ingest.decisions import Decisions
from concentrators.totals import reported_sums, totals
from concentrators.totals.totals import TotalKey
from keyvault import journal
from keyvault.coupons import store as coupon_store
from keyvault.device_keys import epochs, hop_meter_epochs, tag_failures
from keyvault.enrolment import storing as enrolment
from keyvault.enrolment.opening import Enrolling
from keyvault.opening import Opening, save_counters
from meters.readings import copy_format, masked_store
from meters.readings import store as reading_store
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED

_SAID = {COMMAND_DONE: AnswerKind.DONE, COMMAND_REFUSED: AnswerKind.REFUSED, COMMAND_LATE: AnswerKind.LATE}


def store(decisions: Decisions, opening: Opening, enrolling: Mapping[bytes, Enrolling] = MappingProxyType({})) -> None:
    """Store decisions, with a fixed number of queries; there is no query for what is empty.

    0. Keys of meters that enrolled by an accepted frame (``enrolling``, by kid): the counters below need their rows.
    1. Counters, by compare-and-set: this checks that the decisions still hold, and stops others at the same keys.
       Then the times when meters were heard for which their concentrator reports.
       Coupons that were spent, by compare-and-set, and those that were announced.
    2. Commands: the answers of meters, and commands whose key has arrived.
    3. Bad tags, by key.
    4. Readings, events, signatures, masked values: their primary keys reveal a value that another transaction has
       stored since. And the lot of the feed that has those readings and events.
    5. Totals, in the order of their keys; then the sums that concentrators report.
    6. Failures of each uplink: tallies, evidence, and groups, which are locked last of all rows that batches share.
    7. Epochs that have begun. This writes to the key journal, which a rollback does not undo: so it comes last, with
       the journal's records of the keys of enrolled meters.

    ContendedError or IntegrityError if another transaction interfered: the caller rolls back and begins again.
    """
    judged_at = decisions.uplinks[0].delivery.judged_at
    enrolled = journal.Postponed()
    if enrolling:
        enrolment.store(enrolling, decisions.activated.keys(), opening, judged_at, enrolled.append)
    save_counters(opening, decisions.heard)
    if decisions.coupons is not None:
        coupon_store.save(decisions.coupons)
    if decisions.reported:
        hop_meter_epochs.note_heard(decisions.reported)
    if decisions.answers:
        queue.answered([CommandAnswer(*answer[:2], _SAID[answer.obis_code]) for answer in decisions.answers], judged_at)
    if decisions.activated:
        activated = decisions.activated.items()
        keys = list({(meter_id, int.from_bytes(kid[8:10], "big")) for kid, meter_id in activated if meter_id})
        queue.keys_arrived(keys, judged_at)
    tag_failures.count(opening)
    _store_values(decisions)
    if decisions.said_sums:
        reported_sums.store(decisions.said_sums)
    for delivery, _, failures in decisions.uplinks:
        if failures:
            record.record(failures, delivery.uplink_id, delivery.concentrator_id, delivery.received_at)
    enrolled.write()
    if decisions.activated:
        epochs.activate(sorted({opening.keys[kid].id for kid in decisions.activated}), judged_at)


def _store_values(decisions: Decisions) -> None:
    """Store what meters report, the lot that tells consumers of it, and its totals."""
    readings = reading_store.copy_readings(decisions.readings) if decisions.readings else []
    if decisions.events:
        received_at = {delivery.uplink_id: delivery.came_at for delivery, _, _ in decisions.uplinks}
        reading_store.insert_events(decisions.events, received_at)
    if decisions.readings or decisions.events:
        lots.add(Change.NEW, readings, copy_format.rows_of(decisions.events))
    if decisions.signatures:
        reading_store.insert_signatures(decisions.signatures)
    if decisions.masked:
        masked_store.copy_masked(decisions.masked)
    if decisions.sums or decisions.arrived:
        totals.add(
            {TotalKey(*key): (value, meters) for key, (value, meters) in decisions.sums.items()},
            {TotalKey(*key): meters for key, meters in decisions.arrived.items()},
        )
