"""Meters that exist for one misbehaviour each; they send before all others begin. No Django."""

from collections.abc import Mapping

from concentrators.failures.kinds import FailureKind
from concentrators.simulator.meter import SimulatedMeter
from concentrators.simulator.packs import register_payload
from concentrators.simulator.plan import Ghost, Plan
from concentrators.simulator.sent import ACCEPTED
from concentrators.simulator.spool import Outgoing

_CONCENTRATOR = 0  # over which all of them send


def lives(plan: Plan, ghosts: Mapping[Ghost, SimulatedMeter]) -> list[Outgoing]:
    """Return the frames of those meters that send by themselves."""
    frames = []
    for ghost, meter in ghosts.items():
        if ghost.kind == "old_counter":
            frames += _lose_counters(plan, meter)
        elif ghost.kind == "session_flood":
            frames += _open_sessions(plan, meter)
    return frames


def _lose_counters(plan: Plan, meter: SimulatedMeter) -> list[Outgoing]:
    """One meter counts in twos until the head-end gives up its oldest gap, then sends a counter of that gap.

    First the gaps reach their limit; when all of that is verified, three more follow, and after those the old counter:
    so the verdicts do not depend on the order in which workers verify.
    """
    frames: list[Outgoing] = []
    readings = plan.old_counter_readings()
    for step, (captured_at_s, register_wh) in enumerate(readings):
        octets = meter.seal(register_payload(captured_at_s, register_wh), counter=2 * step + 2)
        behind = frames[plan.gap_runs - 1] if step >= plan.gap_runs else None
        frames.append(Outgoing(_CONCENTRATOR, octets, ACCEPTED, behind=behind))
    old = meter.seal(register_payload(readings[-1][0] + 5, 0), counter=1)
    frames.append(Outgoing(_CONCENTRATOR, old, FailureKind.COUNTER_TOO_OLD, behind=frames[-1]))
    return frames


def _open_sessions(plan: Plan, meter: SimulatedMeter) -> list[Outgoing]:
    """One meter boots so often that the head-end drops its first sessions, then sends a frame of the first one.

    The order is that of lost counters, for the same reason.
    """
    frames: list[Outgoing] = []
    closed = b""
    for step, (captured_at_s, register_wh) in enumerate(plan.flood_readings()):
        meter.set_clock(captured_at_s)
        octets = meter.seal(register_payload(captured_at_s, register_wh))
        closed = closed or meter.seal(register_payload(captured_at_s + 5, register_wh))
        behind = frames[plan.sessions - 1] if step >= plan.sessions else None
        frames.append(Outgoing(_CONCENTRATOR, octets, ACCEPTED, behind=behind))
    return [*frames, Outgoing(_CONCENTRATOR, closed, FailureKind.SESSION_CLOSED, behind=frames[-1])]
