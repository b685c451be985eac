"""The simulator's meter, given the commands of a vector."""

from typing import Any

from concentrators.simulator.meter import Memory, SimulatedMeter
from concentrators.simulator.obedience import TakenCommand
from meters.readings.obis import COMMAND_DONE, COMMAND_LATE, COMMAND_REFUSED

_SAYS = {COMMAND_DONE: "done", COMMAND_REFUSED: "refused", COMMAND_LATE: "too late"}


def said(vector: dict[str, Any]) -> list[tuple[str, int | None]]:
    """What it says to each command, and the number that it names."""
    memory = Memory(0)
    meter = _boot(vector, memory, vector["clock"])
    answers = []
    for step in vector["steps"]:
        meter.let_time_pass(step["running"])
        if step.get("boots"):
            meter = _boot(vector, memory, step["clock"])
        elif "sends" in step:
            meter.seal_event(step["sends"])
        else:
            answers.append(_obey(meter, step["command"], step["clock"], step["running"]))
    return answers


def _boot(vector: dict[str, Any], memory: Memory, clock_s: int) -> SimulatedMeter:
    meter = SimulatedMeter(
        vector["system_title"],
        vector["device_key"],
        memory,
        vector["transfer_key"],
        alg=vector["alg"],
        transfer_alg=vector["transfer_alg"],
        scheme=vector["scheme"],
        clock_s=clock_s,
    )
    if not meter._counter:
        meter._keys.reserve(1, vector["counter"])
        meter.epoch, meter._reserved = meter._keys.boot()
        meter._counter = meter._reserved
    return meter


def _obey(meter: SimulatedMeter, octets: bytes, clock_s: int, running_s: int) -> tuple[str, int | None]:
    order = meter.receiver.take(octets, meter.epoch)
    if order is None:
        return "nothing", None
    if order.again:
        answer = meter.receiver.answer_again(order)
    else:
        answer = meter.answer(order, clock_s, _outcome(meter, order, running_s))
    meter.seal_event(b"")
    return _SAYS[answer.register], answer.number


def _outcome(meter: SimulatedMeter, order: TakenCommand, running_s: int) -> str:
    if not meter.receiver.does(order):
        return COMMAND_REFUSED
    if meter.is_late(order, running_s):
        return COMMAND_LATE
    meter.renew(order) if order.epoch == 0 else None
    return COMMAND_DONE
