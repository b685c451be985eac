"""Decides which message a receiver gets about an alert (that it began, a reminder, that it ended), and when to decide
again. The inputs are its last message and the facts.

Pure: no database, no clock, no settings. docs/adr/0017-alerts.md gives the reasons.
"""

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ami_headend.core import clock

FIRST_HOLD = timedelta(minutes=5)
HOLD_GROWS = 4
GROWN = 2  # an open alert is repeated once it has this many times the subjects of the last message


class Word(enum.StrEnum):
    """The last message that a receiver has of an alert. UNSURE: one was sent, and nobody knows whether it arrived."""

    NOTHING = "nothing"
    OPEN = "open"
    OVER = "over"
    UNSURE = "unsure"


class MessageType(enum.StrEnum):
    """The type of a message."""

    OPENED = "alert.opened"
    REMINDED = "alert.reminded"
    RESOLVED = "alert.resolved"
    DEADLINE = "deadline"
    TEST = "test"

    @property
    def word(self) -> Word:
        """Return what a receiver of this message knows."""
        return {
            MessageType.RESOLVED: Word.OVER,
            MessageType.TEST: Word.NOTHING,
            MessageType.DEADLINE: Word.NOTHING,
        }.get(self, Word.OPEN)


@dataclass(frozen=True)
class ReceiverState:
    """What a receiver knows of an alert: its last message, the number of subjects in it, and when it was last
    disturbed.

    A message about a problem disturbs. ``flaps`` counts such messages in a row, each within the quiet time after the
    one before.
    """

    word: Word = Word.NOTHING
    subjects: int = 0
    disturbed_at: datetime | None = None
    flaps: int = 0


@dataclass(frozen=True)
class Facts:
    """The state of an alert, and whether this receiver gets messages about it.

    ``is_reachable``: its channel is switched on and has this address. ``is_wanted``: the channel wants this severity.
    """

    is_open: bool
    subjects: int = 1
    is_acknowledged: bool = False
    snoozed_until: datetime | None = None
    is_reachable: bool = True
    is_wanted: bool = True

    @property
    def word(self) -> Word:
        """Return what a receiver should know."""
        return Word.OPEN if self.is_open else Word.OVER


@dataclass(frozen=True)
class Decision:
    """The message to send now, and when to decide again if nothing changes. Both are empty if there is nothing
    to do.
    """

    say: MessageType | None = None
    look_at: datetime | None = None


def decide(receiver: ReceiverState, facts: Facts, quiet: timedelta, now: datetime) -> Decision:
    """Decide which message a receiver gets now.

    The end of an alert that it knows as open is sent at once. An open alert that it does not know is sent at once too,
    unless another message came shortly before: then after 5 minutes, and after four times as long each further time, up
    to the quiet time. A reminder of a known open alert follows after the quiet time until somebody acknowledges it; and
    earlier, acknowledged or not, once the alert has twice as many subjects.
    """
    if not facts.is_reachable:
        return Decision()
    if not facts.is_open:
        return Decision(MessageType.RESOLVED if receiver.word in (Word.OPEN, Word.UNSURE) else None)
    due = _due(receiver, facts, quiet, now)
    if due is None:
        return Decision()
    if due > now:
        return Decision(look_at=due)
    return Decision(MessageType.REMINDED if receiver.word == Word.OPEN else MessageType.OPENED)


def _due(receiver: ReceiverState, facts: Facts, quiet: timedelta, now: datetime) -> datetime | None:
    """Return when the message about an open alert is due; None if none is needed."""
    if not facts.is_wanted or (receiver.word == Word.NOTHING and facts.is_acknowledged):
        return None
    disturbed_at = receiver.disturbed_at
    if disturbed_at is not None and clock.is_ahead(disturbed_at, now):
        disturbed_at = None
    if facts.snoozed_until is not None and facts.snoozed_until > now:
        return facts.snoozed_until
    is_known = receiver.word == Word.OPEN
    has_grown = is_known and facts.subjects >= GROWN * max(1, receiver.subjects)
    if is_known and facts.is_acknowledged and not has_grown:
        return None
    was_snoozed = facts.snoozed_until is not None and (disturbed_at is None or disturbed_at < facts.snoozed_until)
    if disturbed_at is None or was_snoozed:
        return now
    return disturbed_at + (quiet if is_known and not has_grown else hold(receiver.flaps, quiet))


def hold(flaps: int, quiet: timedelta) -> timedelta:
    """Return the pause of a receiver after a message, at most the quiet time."""
    held: timedelta = FIRST_HOLD * HOLD_GROWS ** min(flaps, 12)
    return min(quiet, held)


@dataclass(frozen=True)
class PendingMessage:
    """A message that was written and not delivered yet. ``is_under_way``: a worker is sending it now."""

    event: MessageType
    subjects: int = 1
    attempts: int = 0
    is_under_way: bool = False


@dataclass(frozen=True)
class Settlement:
    """The new state of a conversation, whether to withdraw the pending message, and which message to write now.

    ``look_at`` is when to settle again if nothing changes until then.
    """

    receiver: ReceiverState
    withdraw: bool = False
    say: MessageType | None = None
    look_at: datetime | None = None


def settle(
    receiver: ReceiverState, pending: PendingMessage | None, facts: Facts, quiet: timedelta, now: datetime
) -> Settlement:
    """Make a conversation match the facts, with at most one pending message, which is never untrue.

    Nothing changes while a message is under way: its outcome settles again.
    """
    if pending is None:
        return _say(receiver, facts, quiet, now)
    if pending.is_under_way:
        return Settlement(receiver)
    known = (
        receiver if receiver.word == pending.event.word or not pending.attempts else replace(receiver, word=Word.UNSURE)
    )
    if pending.event.word == facts.word and _needs_message(known, facts, now):
        as_taken = decide(replace(receiver, word=pending.event.word, subjects=pending.subjects), facts, quiet, now)
        if as_taken.say is None:
            return Settlement(receiver, look_at=as_taken.look_at)
    return replace(_say(known, facts, quiet, now), withdraw=True)


def _say(receiver: ReceiverState, facts: Facts, quiet: timedelta, now: datetime) -> Settlement:
    decision = decide(receiver, facts, quiet, now)
    if decision.say is not None and decision.say != MessageType.RESOLVED:
        receiver = disturbed(receiver, quiet, now)
    return Settlement(receiver, say=decision.say, look_at=decision.look_at)


def _needs_message(known: ReceiverState, facts: Facts, now: datetime) -> bool:
    """Whether a message is due if the quiet time is ignored."""
    return decide(replace(known, disturbed_at=None), facts, timedelta(0), now).say is not None


def disturbed(receiver: ReceiverState, quiet: timedelta, now: datetime) -> ReceiverState:
    """Return the state after a message about a problem was written. ``word`` changes once the receiver has taken it."""
    is_soon = clock.is_within(receiver.disturbed_at, quiet, now)
    return replace(receiver, disturbed_at=now, flaps=receiver.flaps + 1 if is_soon else 0)


def taken(receiver: ReceiverState, event: MessageType, subjects: int, *, in_order: bool) -> ReceiverState:
    """Return the state after a receiver took a message; ``in_order``: no other message was written for it meanwhile."""
    is_known = in_order or event.word == receiver.word
    return replace(receiver, word=event.word if is_known else Word.UNSURE, subjects=subjects)
