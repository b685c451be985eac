"""Celery's doors: ids in, one domain function called, retry decided."""

import logging

from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from ami_headend.core import broker_errors
from ami_headend.core.tasklimits import LONG
from concentrators import retention
from concentrators.commands import capture_period, downlink, gap_recovery, held_commands, queue, rollouts
from concentrators.failures import acknowledgement
from concentrators.feed import sequencer
from concentrators.feed.deliveries import sending
from concentrators.ingest import backlog, dispatch, reverification_queue, uplink_state
from concentrators.ingest.transaction_retry import TransientError
from concentrators.totals import mask_collector, read_success, reported_sums
from concentrators.validation import register_checks
from keyvault.device_keys import epochs

logger = logging.getLogger(__name__)

_WORN_KEYS_AT_ONCE = 1_000
_DELIVERING_S = 20.0  # then a delivery gives way to others that wait behind it


_TRANSIENT = (TransientError, OperationalError, InterfaceError)


@shared_task(autoretry_for=_TRANSIENT, max_retries=6, retry_backoff=1, retry_backoff_max=60)
def verify_backlog(uplink_id: int) -> None:
    """Verify what waits, for some seconds, this uplink first if it failed before; then another such task goes on.

    Losing it costs only time: see the sweep.
    """
    still_waiting = dispatch.verify_backlog(uplink_id)
    if still_waiting is not None:
        verify_backlog.delay(still_waiting)


def enqueue(uplink_id: int) -> None:
    """Have workers verify what waits. Raises one of BROKER_ERRORS where the broker does not answer."""
    broker_errors.redis.ask(lambda: verify_backlog.apply_async((uplink_id,), retry=False))


@shared_task
def sweep_uplinks() -> None:
    """Enqueue again what is not verified and overdue; and what a worker that was killed has left."""
    now = timezone.now()
    overdue = uplink_state.claim_overdue(now)
    for uplink_id in overdue or backlog.left_behind(now):
        verify_backlog.delay(uplink_id)
    if overdue:
        logger.warning("%d overdue uplinks enqueued again", len(overdue))


@shared_task(**LONG)
def verify_waiting_again() -> None:
    """Judge frames again that wait for what has come since."""
    if reverification_queue.work():
        verify_waiting_again.delay()


def enqueue_waiting() -> None:
    """Have a worker judge waiting frames again without waiting for beat. Raises as ``enqueue`` does."""
    broker_errors.redis.ask(lambda: verify_waiting_again.apply_async(retry=False))


@shared_task
def request_reverification() -> None:
    """Have all that waits judged again: a fault of ours may have been mended."""
    reverification_queue.request_everything()


@shared_task(**LONG)
def purge_uplinks() -> None:
    """Let the octets of old uplinks go."""
    purged = retention.delete_bodies(timezone.now())
    if purged:
        logger.info("octets of %d uplinks purged", purged)


@shared_task(**LONG)
def delete_old_rows() -> None:
    """Delete uplinks, failures and tallies that were kept for their time."""
    deleted = retention.delete_old(timezone.now())
    if any(deleted.values()):
        logger.info("deleted for age: %s", ", ".join(f"{number} {what}" for what, number in deleted.items()))


@shared_task
def expire_commands() -> None:
    """End the commands whose time is over, also held ones; have those offered that a clock ahead put off."""
    now = timezone.now()
    expired = queue.expire(now)
    if dropped := held_commands.drop_expired(now):
        logger.warning("%d held commands and waves are withdrawn: nobody released them in time", dropped)
    called = downlink.offer_at_once(now)
    if called:
        logger.warning("%d commands were put off into the future, as the clock was ahead: offered again", called)
    if expired:
        logger.info("%d commands expired", expired)


@shared_task(**LONG)
def enter_interval_lengths() -> None:
    """Take over the interval lengths that meters have confirmed."""
    entered = capture_period.enter_confirmed(timezone.now())
    if entered:
        logger.info("another interval length of %d meters is entered in the registry", entered)


@shared_task(**LONG)
def step_rotation_waves() -> None:
    """Queue the next key commands of every running wave."""
    rollouts.step(timezone.now())


@shared_task(**LONG)
def compare_reported_sums() -> None:
    """Hold what concentrators add up against what is here."""
    reported_sums.compare(timezone.now())


@shared_task(**LONG)
def count_read_days() -> None:
    """Count what had arrived of the days that have become due, and what came later of those before."""
    counted = read_success.count_due(timezone.now())
    if counted:
        logger.info("read success of %d days counted", counted)


@shared_task(**LONG)
def check_registers() -> None:
    """Hold the registers of meters against their intervals, for the days that are over."""
    register_checks.follow()
    checked = register_checks.check(timezone.now())
    if checked:
        logger.info("registers of %d days of meters checked against intervals", checked)


@shared_task
def number_lots() -> None:
    """Give settled lots of the feed their positions."""
    sequencer.number_settled()


@shared_task
def sweep_feed_deliveries() -> None:
    """Have a worker send for each delivery that may have something to send."""
    for delivery_id in sending.due(timezone.now()):
        deliver_feed.delay(delivery_id)


@shared_task(**LONG)
def deliver_feed(delivery_id: int) -> None:
    """Send what a delivery has to send, for some seconds; then another such task goes on. The sweep makes up for it."""
    if sending.deliver_for(delivery_id, _DELIVERING_S):
        deliver_feed.delay(delivery_id)


@shared_task(**LONG)
def collect_masked_totals() -> None:
    """Form sets of masked values, ask mask authorities about them, and unmask totals."""
    mask_collector.collect(timezone.now())


@shared_task(**LONG)
def resend_gaps() -> None:
    """Ask meters for what is missing of their load profiles, where that is wanted (setting RESEND_GAPS)."""
    if settings.RESEND_GAPS:
        outcome = gap_recovery.ask_by_schedule(timezone.now())
        logger.info("%d resends queued for the gaps of %d meters", outcome.commands, outcome.meters)


@shared_task(**LONG)
def retire_keys() -> None:
    """Let keys go whose grace time is over."""
    retired = epochs.retire_due(timezone.now())
    if retired:
        logger.info("%d device keys retired", retired)


@shared_task(**LONG)
def replace_worn_keys() -> None:
    """Queue new keys for meters that near the safe number of frames under one key."""
    replaced = queue.replace_worn_keys(_WORN_KEYS_AT_ONCE, timezone.now())
    if replaced:
        logger.info("new keys queued for %d meters that near the safe number of frames", replaced)


@shared_task(**LONG)
def acknowledge_failures(acknowledgement_id: int) -> None:
    """Acknowledge the rest of many failures. Losing this task leaves them open: somebody acknowledges them again."""
    acknowledged = acknowledgement.go_on(acknowledgement_id)
    logger.info("acknowledgement %d holds for %d more failures", acknowledgement_id, acknowledged)


@shared_task
def reopen_failures(acknowledgement_id: int) -> None:
    """Open the failures of an acknowledgement that was taken back."""
    reopened = acknowledgement.reopen(acknowledgement_id)
    logger.info("acknowledgement %d was taken back: %d failures are open again", acknowledgement_id, reopened)
