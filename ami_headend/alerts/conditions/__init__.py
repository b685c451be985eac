"""The search of each condition, from the modules for traffic, keys, masked totals, signed readings and the head-end."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from ami_headend.alerts.conditions import components, deadlines, feed, keys, masked, signed, site, traffic, validation
from ami_headend.alerts.conditions.finding import Findings
from ami_headend.alerts.models import Condition, Rule

_MINUTE_S, _HOUR_S = 60, 3_600


class Search(NamedTuple):
    """The search of a condition, and the least time between two searches.

    ``find`` takes the rule, the ids of the subjects of its open alerts, and the time.
    """

    find: Callable[[Rule, Sequence[int], datetime], Findings]
    rests_s: int = 0


SEARCHES = {
    Condition.FAILURE_RATE: Search(traffic.failure_rate),
    Condition.KIND_SEEN: Search(traffic.kind_seen),
    Condition.METER_EVENT: Search(traffic.meter_event),
    Condition.OUTAGE: Search(traffic.outage),
    Condition.SILENT_METER: Search(traffic.silent_meter, _MINUTE_S),
    Condition.SILENT_CONCENTRATOR: Search(traffic.silent_concentrator),
    Condition.COMPLETENESS: Search(traffic.completeness, 5 * _MINUTE_S),
    Condition.READ_DEADLINE: Search(deadlines.read_deadline, _MINUTE_S),
    Condition.AGGREGATE_MISMATCH: Search(traffic.aggregate_mismatch),
    Condition.REGISTERS_DIFFER: Search(validation.registers_differ, _HOUR_S),
    Condition.ROTATION_STALLED: Search(keys.rotation_stalled),
    Condition.KEYS_WORN: Search(keys.keys_worn, _HOUR_S),
    Condition.AGREEMENT_KEY_IN_USE: Search(keys.agreement_key_in_use, _HOUR_S),
    Condition.AUTHORITY_EXPIRES: Search(keys.authority_expires, _HOUR_S),
    Condition.MASK_AUTHORITY: Search(masked.mask_authority),
    Condition.MASKED_REFUSED: Search(masked.masked_refused),
    Condition.FEED_LAG: Search(feed.feed_lag),
    Condition.COUPONS_OUT: Search(signed.coupons_out, _HOUR_S),
    Condition.AUDIT_BROKEN: Search(keys.audit_broken, 10 * _MINUTE_S),
    Condition.MASTER_KEY_DOWN: Search(keys.master_key_down),
    Condition.QUEUE_LAG: Search(site.queue_lag),
    Condition.BACKUP_OVERDUE: Search(site.backup_overdue, 10 * _MINUTE_S),
    Condition.API_TOKEN_EXPIRES: Search(site.api_token_expires, _HOUR_S),
    Condition.SIEM_BEHIND: Search(site.siem_behind),
    Condition.COMMANDS_HELD: Search(site.commands_held),
    Condition.COMPONENT_DOWN: Search(components.component_down),
}
