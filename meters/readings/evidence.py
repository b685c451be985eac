"""Evidence of signed readings for third parties: a CBOR file that they verify without this head-end.

A CBOR sequence (RFC 8742), one map for each meter; docs/evidence.md describes it and has a program to verify it.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import cbor2
from django.utils import timezone

from ami_headend.core.disk import new_file
from ami_headend.core.sql import fetch_rows, int_array
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.coupons import evidence
from keyvault.schemes.table import SCHEMES
from meters.archive import reading as archived
from meters.contents.signed import SIGNED
from meters.models import Meter, Register
from meters.readings import signatures
from meters.readings.signatures import SignatureRow

FORM = "ami-headend evidence 1"
_LOOK = timedelta(days=31)
_AHEAD = timedelta(days=1)  # a meter's clock may be ahead of ours


class EvidenceError(ValueError):
    """The evidence cannot be written; the message says why."""


class Period(NamedTuple):
    """A period [start, end)."""

    start: datetime
    end: datetime


class Exported(NamedTuple):
    """How much was written."""

    meters: int
    readings: int
    signatures: int


def export(meters: Sequence[Meter], period: Period, path: Path, actor: Actor) -> Exported:
    """Write the signed readings of meters with what proves them to a new file, mode 0600. Audited first.

    Four queries for each meter and each thousand of its signatures; one more for each month after the period, until
    the signature of each reading is found. EvidenceError if the file exists or cannot be written: then none is left
    behind.
    """
    titles = [bytes(meter.system_title).hex() for meter in meters]
    subject = {"devices": titles[: chain.NAMED_MAX], "count": len(titles)}
    times = {"from": period.start.isoformat(), "to": period.end.isoformat()}
    readings = signed = 0
    try:
        with new_file(path, 0o600) as file:
            chain.record(actor, "evidence.export", {**subject, **times})
            for one in _evidence(meters, period):
                readings += len(one["readings"])
                signed += len(one["signatures"])
                cbor2.dump(one, file)
    except FileExistsError:
        raise EvidenceError(f"{path} exists already and is left as it is: name a new file") from None
    except OSError as error:
        raise EvidenceError(f"cannot write {path}: {error.strerror}") from None
    return Exported(len(meters), readings, signed)


def _evidence(meters: Sequence[Meter], period: Period) -> Iterator[dict[str, Any]]:
    for meter in meters:
        readings = _readings(meter, period)
        found = _signatures(meter, period, readings)
        title = bytes(meter.system_title)
        proof = evidence.of_coupons(title, [(row.epoch, row.number) for row in found])
        yield {
            "form": FORM,
            "title": title,
            "readings": [list(row) for row in readings],
            "signatures": [row.octets for row in found],
            **proof._asdict(),
        }


def _signatures(meter: Meter, period: Period, readings: Sequence[tuple[Any, ...]]) -> list[SignatureRow]:
    """Return the signatures of a period, and later ones that say one of its readings: of a pack across its end, or of
    one that waited before it was accepted.
    """
    found = list(signatures.walk(meter.pk, *period))
    unproven = {
        (code, second, Decimal(steps).scaleb(exponent)) for code, _, second, steps, exponent, _ in readings
    } - _says(found)
    start, latest = period.end, timezone.now() + _AHEAD
    while unproven and start < latest:
        end = min(start + _LOOK, latest)
        found += [row for row in signatures.walk(meter.pk, start, end) if unproven & _says([row])]
        unproven -= _says(found)
        start = end
    return found


def _says(rows: Sequence[SignatureRow]) -> set[tuple[str, int, Decimal]]:
    """Return what signatures say: OBIS code, Unix second, value."""
    return {(one.obis_code, int(one.captured_at.timestamp()), one.value) for row in rows for one in row.says}


def _readings(meter: Meter, period: Period) -> list[tuple[Any, ...]]:
    """Return signed readings: OBIS code, unit, Unix second, steps, exponent of ten of a step, interval in minutes."""
    schemes = [one.number for one in SCHEMES if one.content == SIGNED.name]
    with archived.stretches(*period) as stretches:
        rows = fetch_rows(
            """SELECT g.obis_code, g.unit, extract(epoch FROM r.captured_at)::bigint, r.value, g.scaler,
                      r.interval_minutes
               FROM meters_reading r JOIN meters_register g ON g.id = r.register_id
               WHERE r.captured_at >= %s AND r.captured_at < %s AND r.meter_id = %s AND r.scheme = ANY(%s::smallint[])
               ORDER BY r.captured_at, g.obis_code""",
            *period,
            meter.pk,
            int_array(one for one in schemes if one is not None),
        )
        files = archived.rows(stretches, [meter.pk])
    if not files:
        return rows
    registers = {one.pk: one for one in Register.objects.filter(pk__in={row[2] for row in files})}
    for at, _, register_id, value, _, minutes, scheme in files:
        if scheme is not None and scheme in schemes:
            one = registers[register_id]
            rows.append((one.obis_code, one.unit, int(at.timestamp()), value, one.scaler, minutes))
    return sorted(rows, key=lambda row: (row[2], row[0]))
