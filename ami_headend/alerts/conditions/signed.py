"""The condition about signed readings: meters that have no coupon left to sign under."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from ami_headend.alerts.conditions.finding import NOTHING, SUBJECTS_KEPT, Finding, Findings, within
from ami_headend.alerts.models import Rule, SubjectKind
from ami_headend.core.sql import fetch_rows, int_array
from keyvault.models import KeyState
from keyvault.schemes.table import SCHEMES
from meters.contents.signed import SIGNED
from meters.models import MeterStatus


def coupons_out(rule: Rule, open_ids: Sequence[int], now: datetime) -> Findings:
    """Find meters in service that sign, have had no coupon left for the period, and announced none meanwhile."""
    before = now - timedelta(minutes=rule.period_minutes or 0)
    schemes = ",".join(f'"{one.name}"' for one in SCHEMES if one.content == SIGNED.name)
    scope, ids = within(rule, meter="m.id")
    rows = fetch_rows(
        f"""SELECT m.id, m.serial_number, EXISTS (SELECT FROM keyvault_meteridentity i
                                                 WHERE i.system_title = m.system_title), count(*) OVER ()
           FROM keyvault_devicekey k JOIN meters_meter m ON m.system_title = k.system_title AND m.status = %s
           WHERE k.scheme = ANY(%s::text[]) AND k.state = %s AND coalesce(k.activated_at, k.created_at) < %s
             AND {scope}
             AND NOT EXISTS (SELECT FROM keyvault_coupon c
                             WHERE c.system_title = k.system_title AND c.spent_on IS NULL)
             AND NOT EXISTS (SELECT FROM keyvault_couponlist l JOIN keyvault_meteridentity i ON i.id = l.identity_id
                             WHERE i.system_title = k.system_title AND l.received_at >= %s)
           ORDER BY m.id = ANY(%s::int[]) DESC, m.id LIMIT %s""",
        MeterStatus.COMMISSIONED.value,
        "{" + schemes + "}",
        KeyState.ACTIVE.value,
        before,
        *ids,
        before,
        int_array(open_ids),
        SUBJECTS_KEPT,
    )
    if not rows:
        return NOTHING
    found = [
        Finding(SubjectKind.METER, meter_id, serial, f"meter {serial} has no coupon left{_WHY[is_known]}")
        for meter_id, serial, is_known, _ in rows
    ]
    return Findings(rows[0][-1], found)


_WHY = {True: ": it keeps its readings until it announces some", False: ", and its identity is not registered"}
