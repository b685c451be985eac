"""Deliveries: make, change, pause, remove, new secrets. Each act is audited; a secret is returned once, to be shown."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction

from ami_headend.core.refused_addresses import RefusedAddressError
from ami_headend.core.webhook_exchange import check_url
from concentrators.feed import bodies, eras
from concentrators.feed.cursor import Cursor, Place
from concentrators.feed.deliveries import folder, sftp
from concentrators.feed.deliveries.folder import FolderError
from concentrators.feed.deliveries.sftp import SftpAddressError
from concentrators.feed.rows import Resource
from concentrators.feed.subscriptions import MOST
from concentrators.models import DeliveryKind, FeedDelivery, FeedSubscription
from concentrators.models.feed import ADDRESS_LENGTH, HOST_KEY_LENGTH
from keyvault import receiver_logins, webhook_signatures
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.group_models import FleetGroup

ROWS_MAX = {DeliveryKind.WEBHOOK: 20_000, DeliveryKind.FOLDER: 1_000_000, DeliveryKind.SFTP: 1_000_000}
WAIT_MINUTES_MAX = 1_440
# The most rows of a batch, and the minutes that one waits until it is full.
USUAL = {DeliveryKind.WEBHOOK: (1_000, 0), DeliveryKind.FOLDER: (50_000, 15), DeliveryKind.SFTP: (50_000, 15)}
_SETTINGS = ("kind", "address", "format", "rows", "wait_minutes", "group", "host_key", "is_enabled")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", re.ASCII)


class DeliverySettingError(ValueError):
    """A delivery that cannot be so; the message says why and what to do. The administrator's mistake."""


@dataclass(frozen=True)
class Wanted:
    """What an administrator wants of a delivery; None: as it is, or of a new one the usual."""

    kind: str | None = None
    address: str | None = None
    format: str | None = None
    rows: int | None = None
    wait_minutes: int | None = None
    group: FleetGroup | None = None
    for_all: bool = False  # no group any more
    host_key: str | None = None
    is_enabled: bool | None = None
    password: str | None = None


@dataclass(frozen=True)
class Made:
    """A delivery, and what its receiver needs, to be shown once: a signing secret, or a public key."""

    delivery: FeedDelivery
    secret: str = ""
    public_key: str = ""


def save(
    name: str, wanted: Wanted, actor: Actor, now: datetime, *, resource: Resource | None = None, at_end: bool = False
) -> Made:
    """Make or change the delivery of a subscription, which is made from the first kept row on if there is none.

    ``resource`` and ``at_end`` (from now on) are for a new subscription. A batch that was begun stays as it is, unless
    its form or group is another one now. DeliverySettingError.
    """
    _check_name(name)
    with transaction.atomic():
        subscription = _subscription(name, resource, actor, now, at_end=at_end)
        delivery = FeedDelivery.objects.select_for_update().filter(subscription=subscription).first()
        act = "create" if delivery is None else "change"
        delivery = delivery or FeedDelivery(subscription=subscription)
        before = delivery.format, delivery.group_id
        delivery = _as_wanted(delivery, wanted)
        if (delivery.format, delivery.group_id) != before:
            delivery.until_position = delivery.until_row = None
        delivery.attempts, delivery.due_at, delivery.last_error = 0, None, ""
        delivery.save()
        chain.record(actor, f"feed_delivery.{act}", _subject(delivery))
        if wanted.password is not None:
            receiver_logins.keep_password(delivery.secret_owner, wanted.password, now)
        elif act == "create":
            return _new_secret(delivery, now)
    return Made(delivery)


def new_secret(name: str, actor: Actor, now: datetime) -> Made:
    """Make a new signing secret (the former one signs, too, for a day), or a new key. DeliverySettingError."""
    with transaction.atomic():
        delivery = found(name)
        if delivery.kind == DeliveryKind.FOLDER:
            raise DeliverySettingError(f"{name} goes to a folder: it has no secret")
        chain.record(actor, "feed_delivery.new_secret", _subject(delivery))
        return _new_secret(delivery, now)


def remove(name: str, actor: Actor) -> None:
    """Remove the delivery of a subscription, with its secrets; the subscription stays. DeliverySettingError."""
    with transaction.atomic():
        delivery = found(name)
        chain.record(actor, "feed_delivery.delete", _subject(delivery))
        webhook_signatures.withdraw(delivery.secret_owner)
        receiver_logins.withdraw(delivery.secret_owner)
        delivery.delete()


def found(name: str) -> FeedDelivery:
    """Return the delivery of a subscription; DeliverySettingError if there is none."""
    rows = FeedDelivery.objects.select_related("subscription", "group")
    delivery = rows.filter(subscription__name=name).first()
    if delivery is None:
        raise DeliverySettingError(f"subscription {name[:60]!r} has no delivery")
    return delivery


def check(delivery: FeedDelivery) -> None:
    """Raise DeliverySettingError if a delivery cannot be as it is."""
    for name, longest in (("address", ADDRESS_LENGTH), ("host_key", HOST_KEY_LENGTH)):
        if (length := len(getattr(delivery, name))) > longest:
            raise DeliverySettingError(f"{name} has at most {longest:,} characters, not {length:,}")
    if delivery.host_key and delivery.kind in (DeliveryKind.WEBHOOK, DeliveryKind.FOLDER):
        raise DeliverySettingError("only an SFTP server has a host key")
    try:
        if delivery.kind == DeliveryKind.WEBHOOK:
            check_url(delivery.address)
        elif delivery.kind == DeliveryKind.FOLDER:
            folder.allowed(delivery.address)
        elif delivery.kind == DeliveryKind.SFTP:
            sftp.parse_address(delivery.address)
            sftp.parse_host_key(delivery.host_key)
        else:
            raise DeliverySettingError(f"kind is one of {', '.join(DeliveryKind.values)}, not {delivery.kind[:20]!r}")
    except (RefusedAddressError, FolderError, SftpAddressError) as error:
        raise DeliverySettingError(str(error)) from None
    if delivery.format not in bodies.FORMS:
        raise DeliverySettingError(f"format is one of {', '.join(bodies.FORMS)}, not {delivery.format[:20]!r}")
    most = ROWS_MAX[DeliveryKind(delivery.kind)]
    if not 1 <= delivery.rows <= most:
        raise DeliverySettingError(f"rows is 1 to {most:,} for a {delivery.kind}, not {delivery.rows:,}")
    if not 0 <= delivery.wait_minutes <= WAIT_MINUTES_MAX:
        raise DeliverySettingError(f"wait_minutes is 0 to {WAIT_MINUTES_MAX:,}, not {delivery.wait_minutes:,}")


def is_to_check(delivery: FeedDelivery, changed: Collection[str]) -> bool:
    """Whether a delivery has to be ``check``ed after a change of the settings of these names.

    One that is paused, and not changed otherwise, need not: whoever wants to stop something has to be able to, also
    where its address is refused by now.
    """
    return delivery.pk is None or delivery.is_enabled or not set(changed) <= {"is_enabled"}


def check_password(kind: str, password: str) -> None:
    """Raise DeliverySettingError if a delivery of a kind cannot have this password."""
    if kind != DeliveryKind.SFTP:
        raise DeliverySettingError("only an SFTP server asks for a password")
    try:
        receiver_logins.check_password(password)
    except ValueError as error:
        raise DeliverySettingError(str(error)) from None


def check_new(name: str, resource: Resource) -> None:
    """Raise DeliverySettingError if a subscription cannot get a delivery of a resource."""
    _check_name(name)
    known = FeedSubscription.objects.filter(name=name).select_related("delivery").first()
    if known is not None and hasattr(known, "delivery"):
        raise DeliverySettingError(f"subscription {name} has a delivery: change that one")
    _check_resource(known, resource)
    if known is None:
        _check_room()


def public_key(delivery: FeedDelivery) -> str:
    """Return the public key of a delivery by SFTP; empty if it has a password, or is of another kind. LoginError."""
    return receiver_logins.public_key(delivery.secret_owner) if delivery.kind == DeliveryKind.SFTP else ""


def _as_wanted(delivery: FeedDelivery, wanted: Wanted) -> FeedDelivery:
    """Set what is wanted, and the usual values of a new one; not stored."""
    given: Mapping[str, Any] = {
        one.name: getattr(wanted, one.name) for one in fields(wanted) if getattr(wanted, one.name) is not None
    }
    is_new = delivery.pk is None
    if is_new and (missing := [name for name in ("kind", "address") if name not in given]):
        raise DeliverySettingError(f"a new delivery needs {' and '.join(missing)}")
    if not is_new and wanted.kind not in (None, delivery.kind):
        raise DeliverySettingError(f"it is a {delivery.kind}: remove it, and make another one of kind {wanted.kind}")
    if is_new and given["kind"] in USUAL:
        rows, wait = USUAL[DeliveryKind(given["kind"])]
        given = {"rows": rows, "wait_minutes": wait, "format": "ndjson", **given}
    if wanted.for_all:
        given = {**given, "group": None}
    changed = [name for name in _SETTINGS if name in given and getattr(delivery, name) != given[name]]
    for name in changed:
        setattr(delivery, name, given[name])
    if is_to_check(delivery, changed):
        check(delivery)
    if wanted.password is not None:
        check_password(delivery.kind, wanted.password)
    return delivery


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeliverySettingError(
            f"{name[:60]!r} cannot name files: a subscription that is delivered has letters, digits, and . _ - alone"
        )


def _check_room() -> None:
    if FeedSubscription.objects.count() >= MOST:
        raise DeliverySettingError(f"there are {MOST:,} subscriptions already: delete those that nobody needs")


def _check_resource(known: FeedSubscription | None, resource: Resource | None) -> None:
    if known is not None and resource is not None and known.resource != resource:
        raise DeliverySettingError(f"subscription {known} follows {known.resource}, not {resource}")


def _subscription(
    name: str, resource: Resource | None, actor: Actor, now: datetime, *, at_end: bool
) -> FeedSubscription:
    known = FeedSubscription.objects.select_for_update().filter(name=name).first()
    _check_resource(known, resource)
    if known is not None:
        return known
    _check_room()
    of, state = resource or Resource.READINGS, eras.state()
    cursor = Cursor(of, state.era, Place(state.last + 1 if at_end else state.first_kept, 0))
    chain.record(actor, "feed.subscribe", {"subscription": name, "resource": of.value})
    return FeedSubscription.objects.create(
        name=name, resource=of, era=cursor.era, position=cursor.place.position, row=cursor.place.row,
        account=actor.name, owner=actor.name, moved_at=now,
    )  # fmt: skip


def _new_secret(delivery: FeedDelivery, now: datetime) -> Made:
    made = Made(delivery)
    if delivery.kind == DeliveryKind.WEBHOOK:
        return replace(made, secret=webhook_signatures.issue(delivery.secret_owner, now))
    if delivery.kind == DeliveryKind.SFTP:
        return replace(made, public_key=receiver_logins.new_key(delivery.secret_owner, now))
    return made


def _subject(delivery: FeedDelivery) -> dict[str, object]:
    """Return what the audit chain records of a delivery; only the host of a webhook, as some paths contain secrets."""
    is_webhook = delivery.kind == DeliveryKind.WEBHOOK
    return {
        "subscription": delivery.subscription.name,
        "kind": delivery.kind,
        "to": urlsplit(delivery.address).hostname if is_webhook else delivery.address,
        "format": delivery.format,
        "group": None if delivery.group is None else str(delivery.group),
        "is_enabled": delivery.is_enabled,
    }
