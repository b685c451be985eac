"""The epochs of a device key: pending, active, retiring, retired; any of them may become compromised.

A new epoch is pending until the first accepted frame under it proves that the key arrived. Then it is active, and the
old one is retiring: late frames under it are accepted for a grace time, each once. A key that a concentrator may have
fetched stays acceptable, whatever became of its command.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, key_rows, provisioning
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.last_heard import HIGHEST
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import TABLES_OF_A_KEY, DeviceKey, FleetKey, KeySource, KeyState
from keyvault.schemes.dlms.security import LAST_COUNTER as KEY_SET_LAST_COUNTER
from keyvault.schemes.table import (
    SCHEMES,
    SchemeError,
    algorithm_for,
    algorithms_of,
    check_for_commands,
    has_key_sets,
    needs_agreement_key,
)

LAST_EPOCH = 0xFFFF
LAST_COUNTER = 2**40 - 1
_RETIRE_BATCH = 10_000
_UNFETCHED = """
    SELECT k.id, k.system_title, k.epoch, k.fingerprint FROM keyvault_devicekey k
    JOIN keyvault_invocationcounter c ON c.key_id = k.id
    WHERE k.system_title = ANY(%s::bytea[]) AND k.state = 'pending' AND k.offered_at IS NULL
    ORDER BY k.system_title FOR UPDATE OF c, k
"""


_IN_USE = "k.state = 'active' AND k.epoch > 0"
# Whether a key ``k`` is worn: near its safe number of frames. The highest counter of ``c``, or that of the newest
# session, bounds that number from above; each session has its own AES key. The parameter is KEY_ROTATE_AT_COUNTER.
# A key set of DLMS is worn when few of its counters are left, of which it takes all.
KEY_SET_WORN = (KEY_SET_LAST_COUNTER + 1) * 3 // 4
_OF_KEY_SETS = ", ".join(f"'{one.name}'" for one in SCHEMES if has_key_sets(one.name))
WORN = f"{_IN_USE} AND {HIGHEST} >= %s AND (k.scheme NOT IN ({_OF_KEY_SETS}) OR {HIGHEST} >= {KEY_SET_WORN})"
_SINCE = "coalesce(k.activated_at, k.created_at)"
# Keys that are to be replaced, because they are worn or older than a time, and that have no successor under way.
TO_BE_REPLACED = f"""SELECT k.system_title, {HIGHEST} AS highest, {_SINCE} AS since
    FROM keyvault_devicekey k JOIN keyvault_invocationcounter c ON c.key_id = k.id
    WHERE ({WORN} OR {_IN_USE} AND {_SINCE} < %s) AND NOT EXISTS (
        SELECT 1 FROM keyvault_devicekey p WHERE p.system_title = k.system_title AND p.state = 'pending')"""


class EpochError(ValueError):
    """A new epoch that cannot begin; the message names the device and says why."""


def begin(
    system_titles: Collection[bytes],
    algorithm: int | None = None,
    source: FleetKey | KeySource | None = None,
    scheme: str | None = None,
    agreement_key: str | None = None,
) -> dict[bytes, int]:
    """Give each device (system title, 8 octets) a pending key, and return its epoch by title. All or nothing.

    An existing pending key is used again as it is. ``source`` is a fleet key to derive from,
    KeySource.STORED for random keys, KeySource.AGREED for keys that are agreed on with the devices' public keys, or
    None for the present source (random if the present key is compromised). ``algorithm`` and ``scheme`` None keep the
    present ones; a scheme that lacks the algorithm gets its usual one. ``agreement_key`` names the agreement key, used
    in its active version; None: the one that the device used last, or the only one. EpochError if a device has no
    usable transfer key, no key of its own, no public key or no epoch left, or if scheme, source and algorithm do not
    fit; SchemeError for a scheme that meters cannot have; ProvisioningError if a fleet or agreement key is missing or
    does not open. A fixed number of queries.
    """
    if scheme is not None:
        check_for_commands(scheme)
        algorithm_for(scheme, algorithm)
    titles = sorted(set(system_titles))
    with transaction.atomic():
        _lock_devices(titles)
        newest = _newest_keys(titles)
        epochs: dict[bytes, int] = {}
        new: dict[FleetKey | KeySource, list[NewKey]] = {}
        for title in titles:
            key = newest.get(title)
            if key is None:
                raise EpochError(f"device {title.hex()} has no key of its own yet: import its first key")
            if not SCHEMES[key.scheme].is_commanded:
                raise EpochError(f"device {title.hex()} is of scheme {key.scheme}: its next key comes in a shipment")
            if key.state == KeyState.PENDING:
                if scheme not in (None, key.scheme):
                    raise EpochError(
                        f"device {title.hex()} is being given a key of scheme {key.scheme}: that comes first"
                    )
                epochs[title] = key.epoch
                continue
            if key.epoch >= LAST_EPOCH:
                raise EpochError(f"device {title.hex()} has used up its epochs")
            epochs[title] = key.epoch + 1
            comes_from = _source_for(key, source)
            kind = KeySource.DERIVED if isinstance(comes_from, FleetKey) else comes_from
            new.setdefault(comes_from, []).append(_successor(key, algorithm, kind, scheme))
        _provision_pending(new, agreement_key)
    return epochs


def _provision_pending(new: Mapping[FleetKey | KeySource, Sequence[NewKey]], agreement_key: str | None) -> None:
    """Store the keys by source; keys are agreed on with the public key of the last agreed key of each device."""
    if not new:
        return
    new = _with_agreement_keys(new, agreement_key)
    agreed = new.get(KeySource.AGREED, ())
    publics = provisioning.publics_of([entry.system_title for entry in agreed]) if agreed else {}
    for entry in agreed:
        if entry.system_title not in publics:
            raise EpochError(f"device {entry.system_title.hex()} has no public key: import it, or let it enrol")
    derived = {source: entries for source, entries in new.items() if isinstance(source, FleetKey)}
    provisioning.provision_pending(new.get(KeySource.STORED, ()), derived, agreed, publics)


def _with_agreement_keys(
    new: Mapping[FleetKey | KeySource, Sequence[NewKey]], name: str | None
) -> Mapping[FleetKey | KeySource, Sequence[NewKey]]:
    """The keys, each that needs one with the active version of an agreement key: see ``begin``."""
    titles = {
        entry.system_title
        for source, entries in new.items()
        for entry in entries
        if source == KeySource.AGREED or needs_agreement_key(entry.scheme)
    }
    if not titles:
        return new
    if name is None:
        versions = agreement_keys.active_for(titles)
    else:
        versions = dict.fromkeys(titles, agreement_keys.active(name).pk)
    return {
        source: [entry._replace(agreement_key=versions.get(entry.system_title)) for entry in entries]
        for source, entries in new.items()
    }


def offered(epochs: Mapping[bytes, int], now: datetime) -> set[bytes]:
    """Note that pending keys (epoch by system title) are about to leave; return the titles whose key is still pending.

    Runs in the transaction that hands the commands out; only the commands of those titles may leave.
    """
    rows = fetch_rows(
        """UPDATE keyvault_devicekey k SET offered_at = coalesce(k.offered_at, %s)
           FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)
           WHERE k.system_title = n.title AND k.epoch = n.epoch AND k.state = 'pending'
           RETURNING k.system_title""",
        now,
        octets_array(epochs),
        int_array(epochs.values()),
    )
    return {row[0] for row in rows}


def arrived(epochs: Mapping[bytes, int]) -> set[bytes]:
    """Return the titles whose key (epoch by title) has arrived: a frame under it was accepted at some time."""
    rows = fetch_rows(
        """SELECT k.system_title FROM keyvault_devicekey k
           JOIN unnest(%s::bytea[], %s::int[]) AS n(title, epoch) ON k.system_title = n.title AND k.epoch = n.epoch
           WHERE k.activated_at IS NOT NULL""",
        octets_array(epochs),
        int_array(epochs.values()),
    )
    return {row[0] for row in rows}


def activate(key_ids: Collection[int], now: datetime, tell: journal.Append = journal.append) -> None:
    """Make pending keys active whose first frame was accepted, and their predecessors retiring.

    Runs in the transaction that stores the frame, after its counters were saved: then only one transaction activates a
    key, and none does after a compromise. Three queries. The versions stay, because what the keys open does not change.
    ``tell`` is as in ``provisioning.provision_agreed``.
    """
    ids = int_array(sorted(key_ids))
    execute(
        """UPDATE keyvault_devicekey old SET state = 'retiring', retiring_at = %s
           FROM keyvault_devicekey new
           WHERE new.id = ANY(%s::int[]) AND new.state = 'pending'
             AND old.system_title = new.system_title AND old.epoch > 0 AND old.state = 'active'""",
        now,
        ids,
    )
    activated = fetch_rows(
        """UPDATE keyvault_devicekey SET state = 'active', activated_at = %s
           WHERE id = ANY(%s::int[]) AND state = 'pending' RETURNING system_title, epoch, fingerprint""",
        now,
        ids,
    )
    if activated:
        tell("activated", [int(now.timestamp()), activated])


def retire_due(now: datetime) -> int:
    """Retire the keys whose grace time (setting KEY_GRACE_DAYS) is over; return how many."""
    due = DeviceKey.objects.filter(
        state=KeyState.RETIRING, retiring_at__lte=now - timedelta(days=settings.KEY_GRACE_DAYS)
    ).order_by("retiring_at")
    retired = 0
    while ids := list(due.values_list("pk", flat=True)[:_RETIRE_BATCH]):
        moved = key_rows.set_key_state(ids, KeyState.RETIRED, before=[KeyState.RETIRING])
        retired += moved
        if len(ids) < _RETIRE_BATCH or not moved:
            break
    return retired


def retire(key: DeviceKey, actor: Actor) -> None:
    """Retire a retiring key before its grace time is over, at once for every worker; audited.

    Frames under it are refused from now on, also late ones. EpochError if it is not retiring.
    """
    with transaction.atomic():
        if not key_rows.set_key_state([key.pk], KeyState.RETIRED, before=[KeyState.RETIRING]):
            raise EpochError("only a key that is retiring can be retired: a newer one has proved itself by then")
        chain.record(actor, "device_key.retire", _subject([key.pk]))


def compromise(key_ids: Sequence[int], actor: Actor) -> int:
    """Cut keys off for good, in every worker at once; return how many were not cut off before. Audited as one act.

    A transfer key takes the pending key of its device with it, because whoever has the one could read the other on its
    way. A frame that a running transaction has opened is either stored before the cut-off, or not at all.
    """
    with transaction.atomic():
        ids = sorted({*key_ids, *_under_way_with(key_ids)})
        moved = key_rows.set_key_state(ids, KeyState.COMPROMISED)
        chain.record(actor, "device_key.compromise", _subject(ids), f"{moved} cut off")
    return moved


def _subject(key_ids: Sequence[int]) -> dict[str, object]:
    """The keys of an act as the audit names them: the first of them, and how many they are."""
    named = DeviceKey.objects.filter(pk__in=key_ids[: chain.NAMED_MAX]).order_by("pk")
    keys = [
        {
            "device": bytes(key.system_title).hex(),
            "epoch": key.epoch,
            "fingerprint": bytes(key.fingerprint or b"").hex(),
        }
        for key in named
    ]
    return {"keys": keys, "count": len(key_ids)}


def _under_way_with(key_ids: Sequence[int]) -> list[int]:
    """Return the pending keys of the devices whose transfer keys are among these; locked, so that ``begin`` waits."""
    locked = fetch_rows(
        """SELECT system_title FROM keyvault_devicekey WHERE id = ANY(%s::int[]) AND epoch = %s
           ORDER BY system_title FOR NO KEY UPDATE""",
        int_array(key_ids),
        TRANSFER_EPOCH,
    )
    if not locked:
        return []
    pending = fetch_rows(
        "SELECT id FROM keyvault_devicekey WHERE system_title = ANY(%s::bytea[]) AND state = 'pending'",
        octets_array(row[0] for row in locked),
    )
    return [row[0] for row in pending]


def lock_pending(system_titles: Collection[bytes]) -> None:
    """Lock the pending keys of devices with their counters, in title order, for ``cancel`` in the same transaction."""
    if system_titles:
        fetch_rows(_UNFETCHED, octets_array(system_titles))


def cancel(system_titles: Collection[bytes]) -> set[bytes]:
    """Delete the pending keys that no concentrator has fetched; return the titles of those.

    The meter may already have a key that a concentrator has fetched: it stays pending and acceptable.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        rows = fetch_rows(_UNFETCHED, octets_array(system_titles))
        ids = [row[0] for row in rows]
        for table in TABLES_OF_A_KEY:
            cursor.execute(f"DELETE FROM {table} WHERE key_id = ANY(%s)", [ids])
        cursor.execute("DELETE FROM keyvault_devicekey WHERE id = ANY(%s)", [ids])
        if rows:
            journal.append("gone", [row[1:] for row in rows])
    return {row[1] for row in rows}


def near_budget(at_once: int) -> Iterator[list[bytes]]:
    """Yield the system titles of devices whose active key is near its safe number of frames, the most worn first.

    The highest counter (setting KEY_ROTATE_AT_COUNTER) bounds that number from above. Devices that ``begin`` would
    refuse are left out, so that they do not stop the others. Each query reads ``at_once`` devices.
    """
    highest, key_id = LAST_COUNTER + 1, 0
    while True:
        rows = fetch_rows(
            f"""SELECT system_title, highest, id FROM (
                   SELECT k.system_title, {HIGHEST} AS highest, k.id
                   FROM keyvault_invocationcounter c JOIN keyvault_devicekey k ON k.id = c.key_id
                   WHERE {WORN} AND k.epoch <= %s AND k.scheme <> ALL(%s::text[])
                     AND EXISTS (SELECT 1 FROM keyvault_devicekey t
                                 WHERE t.system_title = k.system_title AND t.epoch = 0 AND t.state = 'active')) AS worn
               WHERE highest < %s OR highest = %s AND id > %s
               ORDER BY highest DESC, id LIMIT %s""",
            settings.KEY_ROTATE_AT_COUNTER,
            LAST_EPOCH - 1,
            [one.name for one in SCHEMES if not one.is_commanded],
            highest,
            highest,
            key_id,
            at_once,
        )
        if not rows:
            return
        yield [row[0] for row in rows]
        _, highest, key_id = rows[-1]


def _lock_devices(titles: Sequence[bytes]) -> None:
    """Lock devices by their transfer keys, in title order; EpochError if one is missing or unusable."""
    rows = fetch_rows(
        """SELECT system_title, state FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[]) AND epoch = %s ORDER BY system_title FOR NO KEY UPDATE""",
        octets_array(titles),
        TRANSFER_EPOCH,
    )
    states: dict[bytes, str] = dict(rows)
    for title in titles:
        state = states.get(title)
        if state is None:
            raise EpochError(f"device {title.hex()} is unknown, or has no transfer key: import one")
        if state != KeyState.ACTIVE:
            raise EpochError(f"the transfer key of device {title.hex()} is {state}: it takes a shipment or a visit")


def _newest_keys(titles: Sequence[bytes]) -> dict[bytes, DeviceKey]:
    rows = (
        DeviceKey.objects.filter(system_title__in=titles, epoch__gt=TRANSFER_EPOCH)
        .select_related("fleet_key")
        .order_by("system_title", "-epoch")
        .distinct("system_title")
    )
    return {bytes(row.system_title): row for row in rows}


def _successor(key: DeviceKey, algorithm: int | None, source: KeySource, scheme: str | None) -> NewKey:
    """Return the key that follows another; EpochError if its scheme lacks the algorithm or does not take the source."""
    title, scheme = bytes(key.system_title), scheme or key.scheme
    try:
        algorithms = algorithms_of(scheme)
        if algorithm is None and key.algorithm in algorithms:
            algorithm = key.algorithm
        new = NewKey(title, key.epoch + 1, None, algorithm_for(scheme, algorithm), scheme)
    except SchemeError as error:
        raise EpochError(f"device {title.hex()}: {error}") from None
    if source not in SCHEMES[scheme].sources:
        raise EpochError(f"device {title.hex()}: scheme {scheme} takes no {source.value} keys")
    return new


def _source_for(key: DeviceKey, source: FleetKey | KeySource | None) -> FleetKey | KeySource:
    """Return the source of a successor: a fleet key to derive it from, or another source."""
    if source is not None:
        return source
    if key.state == KeyState.COMPROMISED:
        return KeySource.STORED
    return key.fleet_key or KeySource(key.source)
