"""How many commands an account may give alone: which limit an act would break, and what is shipped."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from ami_headend.core.text import counted

SMALLEST_SHARE = 100  # commands: fewer are no share of a fleet, however small it is


class Span(NamedTuple):
    """What commands are counted over: a period, or None for one act."""

    words: str
    period: timedelta | None


SPANS = {
    "act": Span("in one act", None),
    "hour": Span("an hour", timedelta(hours=1)),
    "day": Span("a day", timedelta(days=1)),
}


class Limit(NamedTuple):
    """At most ``most`` commands within a span; in one act also at most a share of the meters in service, in percent."""

    span: str
    most: int
    share_percent: int | None = None


class Given(NamedTuple):
    """What an account gave before within each span, by its name, and the number of meters in service."""

    before: Mapping[str, int]
    in_service: int = 0


def broken(limits: Sequence[Limit], number: int, given: Given) -> str:
    """Say which limit ``number`` more commands would break; an empty text if none."""
    for limit in limits:
        span = SPANS[limit.span]
        before = 0 if span.period is None else given.before.get(limit.span, 0)
        if before + number > limit.most:
            told = f"{before:,} given, {number:,} more" if span.period is not None else f"{number:,}"
            return f"beyond the limit of {limit.most:,} {span.words}: {told}"
        share = limit.share_percent
        if share is not None and number > SMALLEST_SHARE and 100 * number > share * given.in_service:
            return f"beyond {share} % of the {counted(given.in_service, 'meter')} in service: {number:,}"
    return ""


def applying(of_all: Sequence[Limit], own: Sequence[Limit]) -> list[Limit]:
    """Return the limits of somebody: an own one of a span replaces the general one."""
    found = {limit.span: limit for limit in (*of_all, *own)}
    return [found[span] for span in SPANS if span in found]


# kind, span, commands, percent. What a field crew or a control room does in a day stays below; a fleet does not.
SHIPPED = (
    (1, "act", 1_000, 20),
    (1, "day", 2_000, None),
    (2, "act", 1_000, None),
    (2, "hour", 5_000, None),
    (3, "act", 20_000, None),
    (3, "day", 100_000, None),
    (4, "hour", 100, None),
    (4, "day", 500, None),
    (5, "hour", 100, None),
    (5, "day", 500, None),
    (7, "hour", 100, None),
    (7, "day", 1_000, None),
)
