"""Groups for their pages: how many are in each, and how the meters of one are doing."""

from datetime import datetime
from typing import NamedTuple

from ami_headend.cached_answers import Question
from ami_headend.core.sql import select
from concentrators.fleet import groups as fleet_groups
from concentrators.fleet.groups import Counts
from keyvault.device_keys import last_heard
from keyvault.models import KeyState
from meters.group_models import FleetGroup
from meters.models import MeterStatus
from meters.registry import groups


class GroupStanding(NamedTuple):
    """The meters of a group now: all, in service, active in the last 24 hours, without any frame ever.

    ``open_failures`` are stored ones that nobody acknowledged; ``compromised`` are meters with no usable key left.
    """

    meters: int
    in_service: int
    heard: int
    never: int
    open_failures: int
    compromised: int
    without_key: int


GROUP_SIZES = Question("group sizes", fleet_groups.sizes, dict[int, Counts])


def standing(group: FleetGroup) -> Question:
    """Return the question about one group: it looks at each of its meters, so the answer is kept."""
    return Question(f"group {group.pk}", lambda now: _standing(group.pk, now), GroupStanding)


def _standing(group_id: int, now: datetime) -> GroupStanding:
    rows, params = groups.in_order([group_id])
    found = select(
        f"""SELECT count(*), count(*) FILTER (WHERE m.status = %s),
                   count(*) FILTER (WHERE m.status = %s AND h.heard_at >= %s),
                   count(*) FILTER (WHERE m.status = %s AND h.heard_at IS NULL),
                   coalesce(sum(f.open), 0)::bigint,
                   count(*) FILTER (WHERE k.compromised AND NOT k.usable),
                   count(*) FILTER (WHERE k.usable IS NULL)
            FROM {rows} AS g JOIN meters_meter m ON m.id = g.meter_id
            {last_heard.LAST.format(title="m.system_title")}
            LEFT JOIN LATERAL (
                SELECT sum(open) AS open FROM concentrators_failuregroup WHERE meter_id = m.id) AS f ON true
            LEFT JOIN LATERAL (
                SELECT bool_or(k.state = %s) AS compromised, bool_or(k.state = ANY(%s)) AS usable
                FROM keyvault_devicekey k WHERE k.system_title = m.system_title AND k.epoch > 0) AS k ON true""",
        [
            *(MeterStatus.COMMISSIONED, MeterStatus.COMMISSIONED, now - last_heard.PERIOD, MeterStatus.COMMISSIONED),
            *params,
            *(KeyState.COMPROMISED, [KeyState.ACTIVE.value, KeyState.PENDING.value]),
        ],
    )
    return GroupStanding(*found[0])
