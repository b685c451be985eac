"""The sweep over masked values: it asks mask authorities, again and again, for the sums of masks that totals need.

``masked_sets`` forms the sets before, and unmasks their totals after. Neither can find the value of one meter: an
authority answers only for ten meters or more, and counts each value in one set only.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import Case, DateTimeField, F, When
from django.db.models import Value as Constant
from django.db.models.functions import Coalesce

from ami_headend.core.sql import execute, int_array, select
from concentrators.models.masked import MaskQuestion
from concentrators.totals import mask_client, masked_sets
from concentrators.totals.mask_client import FOR_GOOD, NoAnswerError
from concentrators.totals.masked_sets import OpenQuestion
from keyvault.masking import messages, pinned
from keyvault.masking.messages import MOST, MessageError
from keyvault.masking.pinned import PinnedMaskAuthority, Requester

logger = logging.getLogger(__name__)

_AT_A_TIME = 500  # questions of one sweep and authority
_RETRY = timedelta(minutes=1)  # doubled with each try
_RETRY_AT_MOST = timedelta(hours=1)
_ASKED_AGAIN = timedelta(minutes=10)  # whether the authority has accepted a meter since


class Collected(NamedTuple):
    """The result of a sweep: sets formed, answers received, sets closed, and requests that failed."""

    formed: int
    answers: int
    closed: int
    failed: int


def collect(now: datetime, settle: timedelta | None = None) -> Collected:
    """Run one sweep: do everything that is due. Nothing is lost if it is interrupted.

    A set is formed when no value has come for its register and start for ``settle`` (MASKED_SETTLE_S by default).
    MasterKeyError or MaskAuthorityError if requests cannot be signed.
    """
    settle = timedelta(seconds=settings.MASKED_SETTLE_S) if settle is None else settle
    groups = masked_sets.groups_of(pinned.asked())
    if not groups:
        return Collected(0, 0, 0, 0)
    authorities = [one for some in groups.values() for one in some]
    requester = pinned.requester(now)
    formed = answers = failed = 0
    for authority in authorities:
        failed += not _learn_meters(authority, requester, now)
    while made := masked_sets.form(groups, settle, now):
        formed += made
    for authority in authorities:
        came, missed = _ask(authority, requester, now)
        answers, failed = answers + came, failed + missed
    return Collected(formed, answers, masked_sets.close(now), failed)


def _learn_meters(authority: PinnedMaskAuthority, requester: Requester, now: datetime) -> bool:
    """Ask an authority which of the meters with waiting values it has accepted; False if it did not answer."""
    for rows in _unknown_meters(authority, now):
        titles = tuple(title for title, _ in rows)
        request = requester.ask_meters(authority.public, titles, int(time.time()))
        try:
            taken = set(messages.open_meters(mask_client.post(authority.url, request), authority.public))
        except (NoAnswerError, MessageError) as error:
            logger.warning("mask authority %s does not say which meters it has taken: %s", authority.name, error)
            return False
        execute(
            """INSERT INTO concentrators_maskedmeter (meter_id, authority_id, taken_at, asked_at)
               SELECT meter_id, %s, CASE WHEN taken THEN %s::timestamptz END, %s
               FROM unnest(%s::int[], %s::bool[]) AS n(meter_id, taken)
               ON CONFLICT (meter_id, authority_id) DO UPDATE
               SET taken_at = excluded.taken_at, asked_at = excluded.asked_at""",
            authority.id,
            now,
            now,
            int_array(meter_id for _, meter_id in rows),
            "{" + ",".join("t" if title in taken else "f" for title in titles) + "}",
        )
    return True


def _unknown_meters(authority: PinnedMaskAuthority, now: datetime) -> Iterator[Sequence[tuple[bytes, int]]]:
    """Yield the meters of an authority's group with waiting values that it may not have accepted yet, by title."""
    after = b""
    while True:
        rows = select(
            """SELECT m.system_title, m.id FROM meters_meter m
               LEFT JOIN concentrators_maskedmeter k ON k.meter_id = m.id AND k.authority_id = %s
               WHERE m.mask_group = %s AND m.system_title > %s AND k.taken_at IS NULL
                     AND (k.asked_at IS NULL OR k.asked_at < %s)
                     AND m.id IN (SELECT meter_id FROM meters_maskedreading WHERE set_id IS NULL)
               ORDER BY m.system_title LIMIT %s""",
            [authority.id, authority.mask_group, after, now - _ASKED_AGAIN, MOST],
        )
        if not rows:
            return
        found = [(bytes(title), meter_id) for title, meter_id in rows]
        yield found
        after = found[-1][0]


def _ask(authority: PinnedMaskAuthority, requester: Requester, now: datetime) -> tuple[int, int]:
    """Ask one authority all questions that are due; return how many were answered, and how many were not.

    If it cannot be reached, the remaining questions are not tried: they are due again later.
    """
    answers = 0
    questions = masked_sets.open_questions([authority.id], now, _AT_A_TIME)
    for number, question in enumerate(questions):
        try:
            octets, mask_sum = _answer(authority, requester, question)
        except NoAnswerError as error:
            left = [one.id for one in (questions[number:] if not error.code else [question])]
            _note_failure(left, authority, error, now)
            if not error.code:
                return answers, len(left)
        else:
            masked_sets.answered(question.id, octets, mask_sum, now)
            answers += 1
    return answers, len(questions) - answers


def _answer(authority: PinnedMaskAuthority, requester: Requester, question: OpenQuestion) -> tuple[bytes, int]:
    request = requester.ask_sum(authority.public, question.cell, question.titles, int(time.time()))
    octets = mask_client.post(authority.url, request)
    try:
        return octets, messages.open_sum(octets, authority.public, question.cell, question.titles)
    except MessageError as error:
        raise NoAnswerError("malformed_answer", str(error)) from None


def _note_failure(question_ids: list[int], authority: PinnedMaskAuthority, error: NoAnswerError, now: datetime) -> None:
    """Note that the questions are due again, after a pause that doubles; close sets that are refused for good."""
    logger.warning(
        "mask authority %s does not answer %d questions: %s%s",
        authority.name,
        len(question_ids),
        f"{error.code}: " if error.code else "",
        error,
    )
    with transaction.atomic():
        rows = MaskQuestion.objects.filter(pk__in=question_ids)
        later = Case(
            *(When(tries=tries, then=Constant(now + min(_RETRY * 2**tries, _RETRY_AT_MOST))) for tries in range(6)),
            default=Constant(now + _RETRY_AT_MOST),
            output_field=DateTimeField(),
        )
        rows.update(
            due_at=later,
            tries=F("tries") + 1,
            refusal=error.code,
            error=str(error)[:250],
            failing_since=Coalesce("failing_since", Constant(now), output_field=DateTimeField()),
        )
        if error.code in FOR_GOOD:
            for question_id in question_ids:
                masked_sets.refuse(question_id, f"{authority.name}: {error.code}: {error}", now)
