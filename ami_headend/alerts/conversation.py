"""Decides which message a receiver gets about an alert, and when to decide again: from the last message and the facts.

Pure: no database, no clock, no settings. docs/adr/0017-alerts.md gives the reasons.
"""

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ami_headend.core import clock

FIRST_HOLD = timedelta(minutes=5)
HOLD_GROWS = 4
GROWN = 2  # an open alert of so many times as many subjects as were told is told again


class Word(enum.StrEnum):
    """What a receiver took last of an alert. UNSURE: a message was sent, and nobody knows whether it arrived."""

    NOTHING = "nothing"
    OPEN = "open"
    OVER = "over"
    UNSURE = "unsure"


class MessageType(enum.StrEnum):
    """The type of a message."""

    OPENED = "alert.opened"
    REMINDED = "alert.reminded"
    RESOLVED = "alert.resolved"
    TEST = "test"

    @property
    def word(self) -> Word:
        """What a receiver knows that took it."""
        return {MessageType.RESOLVED: Word.OVER, MessageType.TEST: Word.NOTHING}.get(self, Word.OPEN)


@dataclass(frozen=True)
class Told:
    """What a receiver knows of an alert: the last word that it took, of how many subjects, when it was disturbed last.

    A message that says that something is wrong disturbs; ``flaps`` counts those in a row that came before the quiet
    time since the one before was over.
    """

    word: Word = Word.NOTHING
    subjects: int = 0
    disturbed_at: datetime | None = None
    flaps: int = 0


@dataclass(frozen=True)
class Truth:
    """The state of an alert, and whether this receiver gets messages about it.

    ``is_heard``: its channel is switched on, and has this address. ``is_wanted``: it asked for alerts as severe.
    """

    is_open: bool
    subjects: int = 1
    is_acknowledged: bool = False
    snoozed_until: datetime | None = None
    is_heard: bool = True
    is_wanted: bool = True

    @property
    def word(self) -> Word:
        """What a receiver should know."""
        return Word.OPEN if self.is_open else Word.OVER


@dataclass(frozen=True)
class Decision:
    """The message to send now, and when to decide again if nothing changes; both empty: there is nothing to do."""

    say: MessageType | None = None
    look_at: datetime | None = None


def decide(told: Told, truth: Truth, quiet: timedelta, now: datetime) -> Decision:
    """Decide which message a receiver gets now.

    It gets the end of an alert that it knows as open at once. It gets an open alert that it does not know at once, too,
    unless it got a message shortly before: then after 5 minutes, and after four times as long each further time
    within the quiet time, up to the quiet time. It is reminded of an alert that it knows as open after the quiet time,
    until somebody acknowledges; and earlier, acknowledged or not, once the alert has twice as many subjects.
    """
    if not truth.is_heard:
        return Decision()
    if not truth.is_open:
        return Decision(MessageType.RESOLVED if told.word in (Word.OPEN, Word.UNSURE) else None)
    due = _due(told, truth, quiet, now)
    if due is None:
        return Decision()
    if due > now:
        return Decision(look_at=due)
    return Decision(MessageType.REMINDED if told.word == Word.OPEN else MessageType.OPENED)


def _due(told: Told, truth: Truth, quiet: timedelta, now: datetime) -> datetime | None:
    """When the message about an open alert is due; None if the present state needs none."""
    if not truth.is_wanted or (told.word == Word.NOTHING and truth.is_acknowledged):
        return None
    disturbed_at = told.disturbed_at
    if disturbed_at is not None and clock.is_ahead(disturbed_at, now):
        disturbed_at = None
    if truth.snoozed_until is not None and truth.snoozed_until > now:
        return truth.snoozed_until
    is_known = told.word == Word.OPEN
    has_grown = is_known and truth.subjects >= GROWN * max(1, told.subjects)
    if is_known and truth.is_acknowledged and not has_grown:
        return None
    was_snoozed = truth.snoozed_until is not None and (disturbed_at is None or disturbed_at < truth.snoozed_until)
    if disturbed_at is None or was_snoozed:
        return now
    return disturbed_at + (quiet if is_known and not has_grown else hold(told.flaps, quiet))


def hold(flaps: int, quiet: timedelta) -> timedelta:
    """How long a receiver is left alone after a message, the quiet time at most."""
    held: timedelta = FIRST_HOLD * HOLD_GROWS ** min(flaps, 12)
    return min(quiet, held)


@dataclass(frozen=True)
class PendingMessage:
    """A message that was written and not taken yet. ``is_under_way``: a worker sends it at this moment."""

    event: MessageType
    subjects: int = 1
    attempts: int = 0
    is_under_way: bool = False


@dataclass(frozen=True)
class Settlement:
    """The new state of a conversation: what is known, whether the pending message is withdrawn, what is written now.

    ``look_at`` is when to settle again where nothing changes until then.
    """

    told: Told
    withdraw: bool = False
    say: MessageType | None = None
    look_at: datetime | None = None


def settle(told: Told, pending: PendingMessage | None, truth: Truth, quiet: timedelta, now: datetime) -> Settlement:
    """Bring a conversation into line with the truth, with one pending message at most, which is never untrue.

    Nothing is done while a message is under way: its outcome settles again.
    """
    if pending is None:
        return _say(told, truth, quiet, now)
    if pending.is_under_way:
        return Settlement(told)
    known = told if told.word == pending.event.word or not pending.attempts else replace(told, word=Word.UNSURE)
    if pending.event.word == truth.word and _may_be_told(known, truth, now):
        as_taken = decide(replace(told, word=pending.event.word, subjects=pending.subjects), truth, quiet, now)
        if as_taken.say is None:
            return Settlement(told, look_at=as_taken.look_at)
    return replace(_say(known, truth, quiet, now), withdraw=True)


def _say(told: Told, truth: Truth, quiet: timedelta, now: datetime) -> Settlement:
    decision = decide(told, truth, quiet, now)
    if decision.say is not None and decision.say != MessageType.RESOLVED:
        told = disturbed(told, quiet, now)
    return Settlement(told, say=decision.say, look_at=decision.look_at)


def _may_be_told(known: Told, truth: Truth, now: datetime) -> bool:
    """Whether a message is due, leaving the quiet time aside."""
    return decide(replace(known, disturbed_at=None), truth, timedelta(0), now).say is not None


def disturbed(told: Told, quiet: timedelta, now: datetime) -> Told:
    """What is noted when a message is written that something is wrong. The word changes once the receiver took it."""
    is_soon = clock.is_within(told.disturbed_at, quiet, now)
    return replace(told, disturbed_at=now, flaps=told.flaps + 1 if is_soon else 0)


def taken(told: Told, event: MessageType, subjects: int, *, in_turn: bool) -> Told:
    """What is known once a receiver took a message; ``in_turn``: no other was written for it meanwhile."""
    is_known = in_turn or event.word == told.word
    return replace(told, word=event.word if is_known else Word.UNSURE, subjects=subjects)
