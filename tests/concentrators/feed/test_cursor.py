"""Cursors: what is one, and what becomes of it when rows are gone or the database was restored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concentrators.feed.cursor import (
    Cursor,
    CursorError,
    Era,
    Gone,
    Place,
    State,
    follow,
    for_deliveries,
    last_shared,
    parse,
)
from concentrators.feed.rows import Resource

# The first era, a backup of it at 40 restored as "two", the same backup again as "three"; a backup of "three" at 90
# restored as "four".
ERAS = {"one": Era(None, 0), "two": Era("one", 40), "three": Era("one", 40), "four": Era("three", 90)}


def state(era: str = "four", last: int = 100, first_kept: int = 1) -> State:
    return State(ERAS, era, last, first_kept)


def at(position: int, row: int = 0, era: str = "four") -> Cursor:
    return Cursor(Resource.READINGS, era, Place(position, row))


@given(
    st.sampled_from(Resource), st.text("0123456789abcdef", min_size=1, max_size=16), st.integers(1, 2**62 - 1),
    st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_a_cursor_comes_back(resource: Resource, era: str, position: int, row: int) -> None:
    cursor = Cursor(resource, era, Place(position, row))
    assert parse(str(cursor), resource) == cursor


@given(st.integers(0, 60), st.sampled_from("0123456789abcdefghijklmnopqrstuvwxyz-_"))
def test_one_that_was_retyped_is_refused(index: int, other: str) -> None:
    text = str(at(12, 3))
    index %= len(text)
    changed = text[:index] + other + text[index + 1 :]
    if changed != text:
        with pytest.raises(CursorError, match="not a cursor of this head-end"):
            parse(changed, Resource.READINGS)


@pytest.mark.parametrize("text", ["", "x", "A" * 400, "ä", "e30", "bnVsbA", "////", "W10"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(CursorError, match="unchanged"):
        parse(text, Resource.READINGS)


def test_each_resource_has_its_own() -> None:
    with pytest.raises(CursorError, match="of the feed of readings, not of events"):
        parse(str(at(1)), Resource.EVENTS)


@pytest.mark.parametrize("place", [Place(1, 0), Place(57, 3), Place(101, 0)])
def test_one_of_this_era_is_followed(place: Place) -> None:
    assert follow(at(*place), state()) == place


@pytest.mark.parametrize("place", [Place(101, 1), Place(102, 0)])
def test_one_ahead_of_everything_was_made_up(place: Place) -> None:
    with pytest.raises(CursorError, match="the last one is 100"):
        follow(at(*place), state())


def test_what_is_no_longer_kept_is_never_skipped_silently() -> None:
    assert follow(at(10, 5), state(first_kept=30)) == Gone(Place(30, 0), None, (10, 30))
    assert follow(at(30, 0), state(first_kept=30)) == Place(30, 0)


@pytest.mark.parametrize(
    ("era", "shared"), [("four", 100), ("three", 90), ("two", 40), ("one", 40), ("of another head-end", 0)]
)
def test_eras_share_the_positions_up_to_the_backup(era: str, shared: int) -> None:
    assert last_shared(era, state()) == shared


def test_an_era_from_before_the_restored_one_shares_no_more_than_its_branch_did() -> None:
    assert last_shared("four", state("two")) == 40
    assert last_shared("two", state("three")) == 40


@pytest.mark.parametrize(
    ("cursor", "gone"),
    [
        (at(20, 7, "one"), Gone(Place(20, 7), None, None)),  # all that it took stands
        (at(41, 0, "one"), Gone(Place(41, 0), None, None)),
        (at(41, 1, "one"), Gone(Place(41, 0), 40, None)),
        (at(70, 0, "two"), Gone(Place(41, 0), 40, None)),
        (at(95, 2, "three"), Gone(Place(91, 0), 90, None)),
        (at(95, 2, "nobody's"), Gone(Place(1, 0), 0, None)),
    ],
)
def test_one_of_another_era_is_told_what_to_discard_and_where_to_go_on(cursor: Cursor, gone: Gone) -> None:
    assert follow(cursor, state()) == gone


def test_one_of_another_era_that_comes_too_late_is_told_both() -> None:
    assert follow(at(70, 0, "two"), state(first_kept=60)) == Gone(Place(60, 0), 40, (41, 60))


# As ERAS, with the seconds of their beginnings.
BEGUN = {name: era._replace(began_s=second) for second, (name, era) in enumerate(ERAS.items(), 1)}


@pytest.mark.parametrize(
    ("cursor", "of", "kept", "told"),
    [
        # At 30 in the backup, but the consumer may have been given what came until it was lost: all from 30 on anew.
        (at(30, 7, "three"), "four", 1, Gone(Place(30, 0), 29, None)),
        (at(1, 0, "three"), "four", 1, Gone(Place(1, 0), 0, None)),
        (at(95, 2, "three"), "four", 1, Gone(Place(91, 0), 90, None)),
        # Before it was restored, the head-end was in "two" and "three", which the backup of "one" knows nothing of: a
        # consumer that is at 60 in the backup may have rows from 41 on of each.
        (at(60, 2, "one"), "four", 1, Gone(Place(41, 0), 40, None)),
        (at(30, 7, "three"), "four", 50, Gone(Place(50, 0), 29, (30, 50))),
        (at(30, 7, "unknown"), "four", 1, Gone(Place(1, 0), 0, None)),
    ],
)
def test_whoever_is_delivered_to_is_told_what_it_may_have_more_than_the_backup(
    cursor: Cursor, of: str, kept: int, told: Gone
) -> None:
    assert for_deliveries(cursor, State(BEGUN, of, 100, kept)) == told


def test_eras_that_were_over_before_the_cursor_discard_nothing() -> None:
    """A backup of "four" is restored: the branch "two" was left long ago, and its consumers were told so."""
    eras = {**BEGUN, "five": Era("four", 200, 9)}
    assert for_deliveries(at(150, 3), State(eras, "five", 300, 1)) == Gone(Place(150, 0), 149, None)


def test_a_restore_of_a_later_backup_after_one_of_an_earlier() -> None:
    """Of "one" at 20, then of "one" at 60, where the cursor was at 55: the consumer has rows of "early" from 21 on."""
    eras = {"one": Era(None, 0, 1), "early": Era("one", 20, 2), "late": Era("one", 60, 3)}
    assert for_deliveries(at(55, 0, "one"), State(eras, "late", 60, 1)) == Gone(Place(21, 0), 20, None)
