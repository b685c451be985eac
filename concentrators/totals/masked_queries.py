"""Queries of masked totals and of open questions to mask authorities, for pages, REST, metrics and commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ami_headend.core import keyset
from ami_headend.core.sql import select
from keyvault.masking.messages import split_titles
from meters.registry import groups


class AuthorityRow(NamedTuple):
    """A pinned mask authority: its answers, open questions, and since when it fails to answer, with the reason."""

    name: str
    url: str
    mask_group: str
    public: str
    pinned_at: datetime
    withdrawn_at: datetime | None
    answers: int
    open: int
    failing_since: datetime | None
    error: str


class MaskedTotalPosition(NamedTuple):
    """The position of a masked total in the order: time first."""

    interval_start: datetime
    id: int


class MaskedTotalRow(NamedTuple):
    """A masked total for display: ``value_sum`` x 10^``scaler`` ``unit`` over ``meters``; None while it is not known.

    ``waits_for`` names the authorities that have not answered; ``refusal`` says why there will never be a total.
    """

    id: int
    obis_code: str
    interval_start: datetime
    interval_minutes: int
    mask_group: str
    meters: int
    value_sum: int | None
    scaler: int
    unit: str
    refusal: str
    waits_for: str


class SignedAnswer(NamedTuple):
    """The answer of an authority for a set: a COSE_Sign1, and the sum in it."""

    authority: str
    public: str
    octets: bytes
    mask_sum: int


class FailingAuthority(NamedTuple):
    """An authority that does not answer, since when, and why the last time."""

    name: str
    failing_since: datetime
    error: str


class RefusedSets(NamedTuple):
    """How many sets will never have a total, and why the latest has none."""

    sets: int
    latest: str


@dataclass(frozen=True)
class MaskedTotalSelection:
    """A selection of masked totals: intervals that start in [start, end), after a key.

    ``group_ids``: those with any meter that is in any of these groups now. Others are in the sum as well.
    """

    start: datetime
    end: datetime
    after: tuple[Any, ...] | None = None
    group_ids: Sequence[int] | None = None


def authorities(now: datetime) -> list[AuthorityRow]:
    """All mask authorities by name; one query."""
    rows = select(
        """SELECT a.name, a.url, a.mask_group, encode(a.public, 'hex'), a.pinned_at, a.withdrawn_at,
                  count(q.answer)::int, count(*) FILTER (WHERE q.id IS NOT NULL AND q.answer IS NULL
                                                         AND s.closed_at IS NULL)::int,
                  min(q.failing_since) FILTER (WHERE s.closed_at IS NULL),
                  coalesce((array_agg(q.error ORDER BY q.failing_since DESC)
                            FILTER (WHERE q.failing_since IS NOT NULL AND s.closed_at IS NULL))[1], '')
           FROM keyvault_maskauthority a
           LEFT JOIN concentrators_maskquestion q ON q.authority_id = a.id
           LEFT JOIN concentrators_maskedset s ON s.id = q.set_id
           GROUP BY a.id ORDER BY a.name"""
    )
    return [AuthorityRow(*row) for row in rows]


def totals(selection: MaskedTotalSelection, limit: int) -> tuple[list[MaskedTotalRow], MaskedTotalPosition | None]:
    """The first masked totals of a selection, oldest first, and the key of the next page; one query."""
    conditions, params = keyset.given(
        ("interval_start >= %s", selection.start),
        ("interval_start < %s", selection.end),
        _of_groups(selection.group_ids),
        keyset.after(MaskedTotalPosition._fields, selection.after),
    )
    rows = select(
        f"""SELECT s.id, g.obis_code, s.interval_start, s.interval_minutes, s.mask_group, s.meters, s.total, g.scaler,
                   g.unit, s.refusal, (
                       SELECT coalesce(string_agg(a.name, ', ' ORDER BY a.name), '')
                       FROM concentrators_maskquestion q JOIN keyvault_maskauthority a ON a.id = q.authority_id
                       WHERE q.set_id = s.id AND q.answer IS NULL AND s.closed_at IS NULL)
            FROM (SELECT * FROM concentrators_maskedset s WHERE {" AND ".join(conditions)}
                  ORDER BY interval_start, id LIMIT %s) s
            JOIN meters_register g ON g.id = s.register_id
            ORDER BY s.interval_start, s.id""",
        [*params, limit],
    )
    found = [MaskedTotalRow._make((*row[:6], None if row[6] is None else int(row[6]), *row[7:])) for row in rows]
    last = found[-1] if len(found) == limit else None
    return found, None if last is None else MaskedTotalPosition(last.interval_start, last.id)


def _of_groups(group_ids: Sequence[int] | None) -> keyset.Condition:
    """The set ``s`` has a value of a meter that is in any of the groups; None does not restrict it."""
    of_meters, value = groups.one_of(group_ids, "r.meter_id")
    text = f"""EXISTS (SELECT FROM meters_maskedreading r WHERE r.captured_at = s.interval_start
                       AND r.register_id = s.register_id AND r.set_id = s.id AND {of_meters})"""
    return text, value


def evidence(set_id: int) -> tuple[list[str], list[SignedAnswer]] | None:
    """Return the system titles of a set in hexadecimal, and the signed answers; None if there is none. Two queries."""
    rows = select("SELECT titles FROM concentrators_maskedset WHERE id = %s", [set_id])
    if not rows:
        return None
    answers: Sequence[Any] = select(
        """SELECT a.name, encode(a.public, 'hex'), q.answer, q.mask_sum FROM concentrators_maskquestion q
           JOIN keyvault_maskauthority a ON a.id = q.authority_id
           WHERE q.set_id = %s AND q.answer IS NOT NULL ORDER BY a.name""",
        [set_id],
    )
    titles = [title.hex() for title in split_titles(bytes(rows[0][0]))]
    return titles, [SignedAnswer(name, public, bytes(octets), int(said)) for name, public, octets, said in answers]


def failing() -> list[FailingAuthority]:
    """The authorities that did not answer a question of an open set at their last try; one query."""
    rows = select(
        """SELECT a.name, min(q.failing_since), (array_agg(q.error ORDER BY q.failing_since))[1]
           FROM concentrators_maskquestion q JOIN concentrators_maskedset s ON s.id = q.set_id
           JOIN keyvault_maskauthority a ON a.id = q.authority_id
           WHERE q.answer IS NULL AND q.failing_since IS NOT NULL AND s.closed_at IS NULL AND a.withdrawn_at IS NULL
           GROUP BY a.name ORDER BY 2, 1"""
    )
    return [FailingAuthority(*row) for row in rows]


def refused_since(since: datetime) -> RefusedSets:
    """The sets that were closed without a total since a time; one query."""
    rows = select(
        """SELECT count(*), coalesce((array_agg(refusal ORDER BY closed_at DESC))[1], '')
           FROM concentrators_maskedset WHERE refusal <> '' AND closed_at >= %s""",
        [since],
    )
    return RefusedSets(*rows[0])


def open_numbers() -> tuple[int, dict[str, int]]:
    """Return how many sets have no total yet, and the number of open questions by authority; two queries."""
    sets = select("SELECT count(*) FROM concentrators_maskedset WHERE closed_at IS NULL")
    questions = select(
        """SELECT a.name, count(s.id) FROM keyvault_maskauthority a
           LEFT JOIN concentrators_maskquestion q ON q.authority_id = a.id AND q.answer IS NULL
           LEFT JOIN concentrators_maskedset s ON s.id = q.set_id AND s.closed_at IS NULL
           WHERE a.withdrawn_at IS NULL GROUP BY a.name ORDER BY a.name"""
    )
    return sets[0][0], dict(questions)
