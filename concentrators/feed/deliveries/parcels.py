"""Parcels: what a delivery sends next. A batch of rows, or a notice that they cannot be followed from where it is."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any

from concentrators.feed import bodies, eras, gone, pages
from concentrators.feed.cursor import Cursor, Place, for_deliveries
from concentrators.feed.formats.profile import parse_profile
from concentrators.feed.pages import GoneError, Plan
from concentrators.feed.rows import Resource
from concentrators.models import FeedDelivery, FeedLot
from meters.registry import groups

GONE = "feed.gone"  # the type of a notice
_NOTICE_TYPE = "application/json"


@dataclass(frozen=True)
class Parcel:
    """Octets with a name that is the same at every attempt; ``following`` is the cursor after it.

    ``parts`` can be read once. A parcel without parts has nothing to send: all its rows are of other meters.
    """

    name: str  # of its file, and its id
    media_type: str
    about: Mapping[str, str]  # headers of a webhook
    parts: Iterator[bytes] | None
    rows: int
    following: Cursor


def cursor_of(delivery: FeedDelivery) -> Cursor:
    """Return the cursor of the row that a delivery sends next."""
    one = delivery.subscription
    return Cursor(Resource(one.resource), one.era, Place(one.position, one.row))


def next_parcel(delivery: FeedDelivery, now: datetime) -> Parcel | None:
    """Return what to send next; None if nothing follows yet, or not enough.

    The end of a batch is stored before it is returned, so that the next attempt has the same rows.
    """
    cursor = cursor_of(delivery)
    try:
        planned = _planned(delivery, cursor, now)
    except GoneError as error:
        return _notice(delivery, cursor, error)
    if planned is None:
        return None
    only = None if delivery.group_id is None else partial(groups.meters_among, [delivery.group_id])
    found = (one for one in pages.batches(planned, shows_places=True, only=only) if one.num_rows)
    first = next(found, None)
    return _batch(delivery, planned, None if first is None else chain([first], found))


def _planned(delivery: FeedDelivery, cursor: Cursor, now: datetime) -> Plan | None:
    if delivery.until_position is not None and delivery.until_row is not None:
        until = Place(delivery.until_position, delivery.until_row)
        return pages.plan_until(cursor.resource, str(cursor), until)
    profile = parse_profile(delivery.subscription.profile)
    planned = bodies.plan(cursor.resource, str(cursor), delivery.rows, delivery.format, profile)
    if not planned.slices:
        return None
    if planned.at_end and planned.rows < delivery.rows:
        stored_at = FeedLot.objects.values_list("stored_at", flat=True).get(position=planned.first.position)
        if now - stored_at < timedelta(minutes=delivery.wait_minutes):
            return None
    delivery.until_position, delivery.until_row = planned.cursor.place
    delivery.save(update_fields=["until_position", "until_row"])
    return planned


def _batch(delivery: FeedDelivery, planned: Plan, batches: Iterable[Any] | None) -> Parcel:
    form = bodies.FORMS[delivery.format]
    first, last = planned.first, planned.last
    era = planned.cursor.era
    about = {
        "Feed-Subscription": delivery.subscription.name,
        "Feed-Resource": planned.resource.value,
        **eras.headers(era),
        "Feed-First": f"{first.position}.{first.row}",
        "Feed-Last": f"{last.position}.{last.row}",
        "Feed-Cursor": str(planned.cursor),
    }
    parts = None
    if batches is not None:
        profile = parse_profile(delivery.subscription.profile)
        parts = bodies.written(planned, batches, delivery.format, profile)
    name = f"{delivery.subscription.name}_{era}_{_named(first)}-{_named(last)}.{form.suffix}"
    return Parcel(name, form.media_type, about, parts, planned.rows, planned.cursor)


def _notice(delivery: FeedDelivery, cursor: Cursor, error: GoneError) -> Parcel:
    """Return the notice that rows cannot be followed; its name sorts before those of the rows after it."""
    state = error.state
    if cursor.era != state.era:
        found = for_deliveries(cursor, state)
        error = GoneError(found, pages.span(found.missed), state)
    text, members = gone.told(cursor.resource, error)
    name = delivery.subscription.name
    said = {
        "type": GONE,
        "subscription": name,
        "resource": cursor.resource.value,
        "former_era": cursor.era,
        "era_began_at": datetime.fromtimestamp(state.eras[state.era].began_s, UTC),
        **members,
        "detail": text,
    }
    octets = json.dumps(said, indent=1, default=datetime.isoformat).encode() + b"\n"
    following = gone.resume(cursor.resource, error)
    about = {"Feed-Subscription": name, "Feed-Resource": cursor.resource.value, **eras.headers(state.era)}
    file = f"{name}_{state.era}_{following.place.position:012d}-gone.json"
    return Parcel(file, _NOTICE_TYPE, {**about, "Feed-Notice": GONE}, iter([octets]), 0, following)


def _named(place: Place) -> str:
    return f"{place.position:012d}.{place.row:06d}"
