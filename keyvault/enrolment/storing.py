"""Stores enrolments whose frames were accepted: the keys of the meter, and that its certificate is used up for good."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from django.db import transaction

from ami_headend.core.sql import fetch_rows, octets_array
from keyvault import journal
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.structures import make_kid
from keyvault.counted_keys import ContendedError
from keyvault.device_keys import epochs, key_rows, provisioning
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.provisioning import NewKey, ProvisioningError, transfer_algorithm
from keyvault.enrolment import lookups
from keyvault.enrolment.opening import Enrolling
from keyvault.models import DeviceKey, Enrolment, KeyState
from keyvault.opening import Opening


def store(
    enrolling: Mapping[bytes, Enrolling],
    proven: Collection[bytes],
    opening: Opening,
    now: datetime,
    tell: journal.Append,
) -> None:
    """Give meters whose enrolment frame was accepted their keys, by kid; the others leave no trace.

    ``proven`` are the kids of keys that were pending, or enrol, and under which a frame of this batch was accepted. The
    key of the epoch is pending, as any that a frame is about to prove; the pending key before it is active if this
    batch proves it, and retired otherwise; the transfer key (epoch 0) is agreed on anew. ContendedError where another
    enrolment, a key or a leave to enrol came between. A fixed number of queries. ``tell`` takes what is to be in the
    key journal before the transaction commits.
    """
    for kid in enrolling.keys() - proven:
        del opening.keys[kid]
    of = {kid: one for kid, one in sorted(enrolling.items()) if kid in proven}
    if not of:
        return
    titles = [kid[:8] for kid in of]
    gone = fetch_rows(
        "DELETE FROM keyvault_awaitedenrolment WHERE system_title = ANY(%s::bytea[]) RETURNING system_title",
        octets_array(titles),
    )
    if len(gone) != len(titles):
        raise ContendedError("a meter that was to enrol has enrolled, or may no more")
    try:
        with transaction.atomic():
            _end_pending([kid[:8] for kid in of], proven, opening, now, tell)
            _provision(of, tell)
    except ProvisioningError as error:
        raise ContendedError(str(error)) from None
    _note(of, now, tell)
    for kid, key_id in lookups.key_ids(of).items():
        opening.keys[kid].id = key_id


def _end_pending(
    titles: Collection[bytes], proven: Collection[bytes], opening: Opening, now: datetime, tell: journal.Append
) -> None:
    """Make room for the next epoch: a pending key is retired, or becomes active where a frame of this batch proves it.

    Frames under a key that retires here may have taken counters in this batch, which are saved after this.
    """
    arrived, lost = [], {}
    proven_kids = {name[:KID_OCTETS] for name in proven}
    rows = DeviceKey.objects.filter(system_title__in=titles, state=KeyState.PENDING)
    for title, epoch, pk in rows.values_list("system_title", "epoch", "pk"):
        kid = make_kid(bytes(title), epoch)
        if kid in proven_kids:
            arrived.append(pk)
        else:
            lost[kid] = pk
    if arrived:
        epochs.activate(arrived, now, tell)
    if lost:
        moved = key_rows.set_key_state(list(lost.values()), KeyState.RETIRED, [KeyState.PENDING], tell)
        if moved != len(lost):
            raise ContendedError("a pending key of a meter that enrols moved meanwhile")
        for name, key in opening.keys.items():
            key.version += name[:KID_OCTETS] in lost  # by this transaction, and by nobody else


def _provision(of: Mapping[bytes, Enrolling], tell: journal.Append) -> None:
    titles = [kid[:8] for kid in of]
    publics = {kid[:8]: one.certificate.public for kid, one in of.items()}
    standing = DeviceKey.objects.filter(system_title__in=titles, epoch=TRANSFER_EPOCH)
    with_transfer_key = {bytes(title) for title in standing.values_list("system_title", flat=True)}
    transfer = [
        NewKey(kid[:8], TRANSFER_EPOCH, None, transfer_algorithm(one.awaited.algorithm), agreement_key=one.version_id)
        for kid, one in of.items()
    ]
    first = [entry for entry in transfer if entry.system_title not in with_transfer_key]
    again = [entry for entry in transfer if entry.system_title in with_transfer_key]
    provisioning.provision_agreed(first, {one.system_title: publics[one.system_title] for one in first}, tell=tell)
    provisioning.replace_transfer_keys(again, {one.system_title: publics[one.system_title] for one in again}, tell)
    entries = [
        NewKey(kid[:8], _epoch(kid), None, one.awaited.algorithm, one.awaited.scheme, agreement_key=one.version_id)
        for kid, one in of.items()
    ]
    provisioning.provision_agreed(entries, publics, KeyState.PENDING, tell)


def _note(of: Mapping[bytes, Enrolling], now: datetime, tell: journal.Append) -> None:
    rows = [
        Enrolment(
            cti=one.certificate.cti,
            system_title=kid[:8],
            epoch=_epoch(kid),
            authority_id=one.authority_id,
            certificate=one.octets,
            issued_at=datetime.fromtimestamp(one.certificate.issued_s, UTC),
            expires_at=datetime.fromtimestamp(one.certificate.expires_s, UTC),
            enrolled_at=now,
        )
        for kid, one in of.items()
    ]
    Enrolment.objects.bulk_create(rows)
    tell(
        "enrolled",
        [
            [
                one.certificate.cti,
                kid[:8],
                _epoch(kid),
                one.certificate.signed.kid,
                one.octets,
                one.certificate.issued_s,
                one.certificate.expires_s,
                int(now.timestamp()),
            ]
            for kid, one in of.items()
        ],
    )


def _epoch(kid: bytes) -> int:
    return int.from_bytes(kid[8:], "big")
