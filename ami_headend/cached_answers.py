"""Cached answers to costly questions: pages and metrics read the answer that the database holds.

An answer is valid for a time in proportion to its cost. A reader asks a cheap question again; the schedule renews all
answers early (``renew``), so that nobody waits for a costly one. Without the schedule, the first reader who finds an
answer too old asks again while everyone else sees the old one: slower, and still right.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import cbor2
from django.db import transaction

from ami_headend.models import KeptAnswer

logger = logging.getLogger(__name__)

RESTS = 100  # an answer is valid for this many times the time it took
RENEWED = 40  # the schedule renews it after this many times


class Question(NamedTuple):
    """A question. ``ask`` returns a value of type ``form``: named tuples, numbers, times and texts, in lists and
    dicts.
    """

    name: str
    ask: Callable[[datetime], Any]
    form: Any


class KeptResult(NamedTuple):
    """An answer, and when it was found."""

    found: Any
    taken_at: datetime


def answers(questions: Sequence[Question], now: datetime) -> dict[str, KeptResult]:
    """Return the answers by name. One query, plus those of the questions that are due."""
    rows = {row.name: row for row in KeptAnswer.objects.filter(name__in=[question.name for question in questions])}
    return {question.name: _answer(question, rows.get(question.name), now) for question in questions}


def renew(questions: Sequence[Question], now: datetime) -> list[str]:
    """Ask the questions that have no answer yet or whose answer will soon be too old; return their names.

    Cheap questions are included, because they become costly as a fleet grows.
    """
    rows = {row.name: row for row in KeptAnswer.objects.filter(name__in=[question.name for question in questions])}
    due = [question for question in questions if (row := rows.get(question.name)) is None or row.is_older(RENEWED, now)]
    for question in due:
        keep(question, now)
    return [question.name for question in due]


def keep(question: Question, now: datetime) -> Any:
    """Ask the question and store its answer."""
    started = time.monotonic()
    found = question.ask(now)
    KeptAnswer.objects.bulk_create(
        [KeptAnswer(name=question.name, content=cbor2.dumps(found), taken_at=now, took_s=time.monotonic() - started)],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["content", "taken_at", "took_s"],
    )
    return found


def forget(question: Question) -> None:
    """Delete the answer, so that the next reader asks again: somebody has just changed it."""
    KeptAnswer.objects.filter(name=question.name).delete()


def read(question: Question, row: KeptAnswer) -> Any:
    """Return the stored answer; None if another release stored it in another form."""
    try:
        return _formed(question.form, cbor2.loads(bytes(row.content)))
    except (cbor2.CBORDecodeError, TypeError, ValueError, LookupError) as error:
        logger.info("the stored answer to %s cannot be read, so the question is asked again: %s", question.name, error)
        return None


def standing(questions: Sequence[Question]) -> dict[str, KeptResult]:
    """Return the stored answers by name, however old, without ever asking. One query."""
    rows = {row.name: row for row in KeptAnswer.objects.filter(name__in=[question.name for question in questions])}
    found = ((q, rows[q.name], read(q, rows[q.name])) for q in questions if q.name in rows)
    return {question.name: KeptResult(answer, row.taken_at) for question, row, answer in found if answer is not None}


def _formed(form: Any, plain: Any) -> Any:
    """Turn plain lists and dicts into their form again; ValueError or TypeError if they do not fit it."""
    if _is_plain(form):
        return plain
    if hasattr(form, "_fields"):
        return form(*(_formed(field, one) for field, one in zip(_fields(form), plain, strict=True)))
    origin, parts = get_origin(form), get_args(form)
    if origin is list:
        return [_formed(parts[0], one) for one in plain]
    if origin is dict:
        return {key: _formed(parts[1], one) for key, one in plain.items()}
    if origin is UnionType:
        return None if plain is None else _formed(parts[0], plain)
    return form(plain)


@cache
def _is_plain(form: Any) -> bool:
    """Whether values have this form as they were kept: an answer has thousands of numbers."""
    if hasattr(form, "_fields"):
        return False
    if get_origin(form) in (list, dict, UnionType):
        return all(map(_is_plain, get_args(form)))
    return not (isinstance(form, type) and issubclass(form, Enum))


@cache
def _fields(form: Any) -> tuple[Any, ...]:
    return tuple(get_type_hints(form).values())


def _answer(question: Question, row: KeptAnswer | None, now: datetime) -> KeptResult:
    standing = None if row is None else read(question, row)
    if row is not None and standing is not None and not row.is_older(RESTS, now):
        return KeptResult(standing, row.taken_at)
    with transaction.atomic():
        mine = KeptAnswer.objects.select_for_update(skip_locked=True).filter(name=question.name).exists()
        if row is not None and standing is not None and not mine:
            return KeptResult(standing, row.taken_at)  # another process is running the query
        return KeptResult(keep(question, now), now)
