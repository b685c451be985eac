"""Subscriptions: how far each consumer says that it has come, and how far it is behind."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import transaction

from ami_headend.core.sql import select
from concentrators.feed import cursor as cursors
from concentrators.feed import eras
from concentrators.feed.cursor import Cursor, CursorError, Gone, Place, State
from concentrators.feed.formats.profile import Profile, parse_profile, written
from concentrators.feed.rows import Resource
from concentrators.models import FeedDelivery, FeedSubscription
from keyvault.audit import chain
from keyvault.audit.chain import Actor

MOST = 1_000  # of one head-end


class SubscriptionError(ValueError):
    """A subscription that cannot be made: the caller's mistake, named in the message."""


class OwnerError(Exception):
    """A program may not act on a subscription that another one made; the message says whose it is."""


class Delivering(NamedTuple):
    """How the delivery of a subscription stands. ``attempts``: failed ones since the last batch that was taken."""

    kind: str
    format: str
    is_enabled: bool
    batches: int
    rows_sent: int
    delivered_at: datetime | None
    attempts: int
    last_error: str


class Standing(NamedTuple):
    """A subscription, and what its consumer has not taken yet.

    ``is_gone``: its cursor cannot be followed any more, and its consumer has to be told where to go on. ``lag`` is the
    age of the oldest row that it has not taken; zero if it has all.
    """

    name: str
    resource: Resource
    cursor: Cursor
    account: str
    created_at: datetime
    moved_at: datetime
    is_gone: bool
    positions: int
    rows: int
    lag: timedelta
    profile: Mapping[str, Any]
    delivery: Delivering | None

    @property
    def lag_s(self) -> int:
        return int(self.lag.total_seconds())


def keep(
    name: str,
    text: str,
    actor: Actor,
    now: datetime,
    profile: Mapping[str, Any] | None = None,
    *,
    only_own: bool = False,
) -> None:
    """Store how far a consumer has come, and its profile if one is given; the first time, this makes the subscription.

    Making it is audited. CursorError, ProfileError; SubscriptionError if there are too many, or it follows another
    resource; OwnerError if ``only_own``, and it is another's. The cursor may be one that cannot be followed: its
    consumer is told when it asks for rows.
    """
    cursor = cursors.parse(text)
    values = {
        "era": cursor.era,
        "position": cursor.place.position,
        "row": cursor.place.row,
        "account": actor.name,
        "moved_at": now,
    }
    with transaction.atomic():
        cursors.follow(cursor, eras.state())
        known = FeedSubscription.objects.select_for_update().filter(name=name).first()
        if known is not None and only_own:
            _check_owner(known, actor)
        if known is None:
            if FeedSubscription.objects.count() >= MOST:
                raise SubscriptionError(f"there are {MOST:,} subscriptions already: delete those that nobody needs")
            FeedSubscription.objects.create(name=name, resource=cursor.resource, owner=actor.name, **values)
            chain.record(actor, "feed.subscribe", {"subscription": name, "resource": str(cursor.resource)})
        elif known.resource != cursor.resource:
            raise SubscriptionError(
                f"subscription {name} follows {known.resource}, and this is a cursor of {cursor.resource}"
            )
        else:
            delivery = FeedDelivery.objects.filter(subscription=known).first()
            if delivery is not None:
                _move_delivered(delivery, cursor, actor)
            values["owner"] = known.owner or known.account
            FeedSubscription.objects.filter(pk=known.pk).update(**values)
        if profile is not None:
            set_profile(name, profile, actor)


def _check_owner(known: FeedSubscription, actor: Actor) -> None:
    owner = known.owner or known.account
    if owner != actor.name:
        raise OwnerError(f"subscription {known.name} belongs to {owner}: people with the right may move or delete it")


def _move_delivered(delivery: FeedDelivery, cursor: Cursor, actor: Actor) -> None:
    """Have a delivery go on from another place; audited. SubscriptionError while it is not paused."""
    name = delivery.subscription.name
    if delivery.is_enabled:
        raise SubscriptionError(f"the head-end itself moves the cursor of {name}, which it delivers: pause that first")
    delivery.until_position = delivery.until_row = None
    delivery.save(update_fields=["until_position", "until_row"])
    chain.record(actor, "feed_delivery.move", {"subscription": name, "position": cursor.place.position})


def _is_gone(cursor: Cursor, state: State) -> bool:
    try:
        return isinstance(cursors.follow(cursor, state), Gone)
    except CursorError:  # the database is behind it
        return True


def delete(name: str, actor: Actor, *, only_own: bool = False) -> bool:
    """Delete a subscription; audited. Return whether there was one.

    SubscriptionError while it is delivered; OwnerError if ``only_own``, and it is another's.
    """
    with transaction.atomic():
        known = FeedSubscription.objects.select_for_update().filter(name=name).first()
        if known is not None and only_own:
            _check_owner(known, actor)
        if FeedDelivery.objects.filter(subscription__name=name).exists():
            raise SubscriptionError(f"{name} is delivered: remove the delivery first")
        deleted, _ = FeedSubscription.objects.filter(name=name).delete()
        if deleted:
            chain.record(actor, "feed.unsubscribe", {"subscription": name})
    return bool(deleted)


def standings(now: datetime, name: str | None = None) -> list[Standing]:
    """Return all subscriptions, or the one of a name, in order of names. Three queries."""
    state = eras.state()
    rows = select(
        """SELECT s.name, s.resource, s.era, s.position, s.row, s.account, s.created_at, s.moved_at, s.profile,
                  l.stored_at, greatest(0, CASE s.resource
                      WHEN 'readings' THEN h.readings - coalesce(here.readings_before, h.readings)
                      ELSE h.events - coalesce(here.events_before, h.events) END - s.row),
                  d.kind, d.format, d.is_enabled, d.batches, d.rows_sent, d.delivered_at, d.attempts, d.last_error
           FROM concentrators_feedsubscription s CROSS JOIN concentrators_feedhead h
           LEFT JOIN concentrators_feeddelivery d ON d.subscription_id = s.id
           LEFT JOIN concentrators_feedlot here ON here.position = s.position
           LEFT JOIN LATERAL (
               SELECT stored_at FROM concentrators_feedlot l
               WHERE l.position >= s.position AND CASE s.resource WHEN 'readings' THEN l.readings ELSE l.events END
                     > CASE l.position WHEN s.position THEN s.row ELSE 0 END
               ORDER BY l.position LIMIT 1
           ) l ON true
           WHERE %s::text IS NULL OR s.name = %s ORDER BY s.name""",
        [name, name],
    )
    found = []
    for title, resource, era, position, row, account, created_at, moved_at, profile, stored_at, behind, *more in rows:
        cursor = Cursor(Resource(resource), era, Place(position, row))
        is_gone = _is_gone(cursor, state)
        lag = max(timedelta(0), now - stored_at) if stored_at is not None and not is_gone else timedelta(0)
        positions = 0 if is_gone else max(0, state.last + 1 - position)
        rows_behind = 0 if is_gone else int(behind)
        counts = is_gone, positions, rows_behind, lag
        delivery = None if more[0] is None else Delivering(*more)
        found.append(
            Standing(title, cursor.resource, cursor, account, created_at, moved_at, *counts, _whole(profile), delivery)
        )
    return found


def _whole(profile: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a stored profile, which may lack those that came with a later release."""
    given = json.loads(profile) if isinstance(profile, str) else profile
    return written(parse_profile(given))


def profile_of(name: str | None) -> Profile:
    """Return the profile of a subscription, or the usual one without a name. SubscriptionError if there is none."""
    if name is None:
        return Profile()
    found = FeedSubscription.objects.filter(name=name).values_list("profile", flat=True).first()
    if found is None:
        raise SubscriptionError(f"there is no subscription {name[:60]!r}")
    return parse_profile(found)


def set_profile(name: str, given: Mapping[str, Any], actor: Actor) -> None:
    """Store the profile of a subscription; audited. ProfileError, or SubscriptionError if there is no such one."""
    profile = written(parse_profile(given))
    with transaction.atomic():
        if not FeedSubscription.objects.filter(name=name).update(profile=profile):
            raise SubscriptionError(f"there is no subscription {name[:60]!r}")
        chain.record(actor, "feed.profile", {"subscription": name, "profile": profile})
