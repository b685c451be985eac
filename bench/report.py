"""The table at the end, and every figure as JSON."""

import json
import os
import platform
from pathlib import Path
from statistics import median, quantiles

import psutil
from rich.console import Console
from rich.table import Table

from bench.measure import SystemRun
from bench.parts import Results


def show(results: Results, console: Console) -> None:
    """Print the medians."""
    console.print()
    console.print(machine())
    rates = Table(title="Frames a second (medians), two readings a frame")
    for column in ("", "frames/s", "of the floor", "rounds from - to"):
        rates.add_column(column, justify="left" if not column else "right")
    if results.floor:
        rates.add_row("floor: bare loops, two processes", f"{median(results.floor):,.0f}", "1", _spread(results.floor))
    for size, runs in sorted(results.system.items()):
        speed = f"{median(run.rate for run in runs):,.0f}"
        ratios = results.of_floor[size]
        rates.add_row(f"system, {size:,} frames an uplink", speed, f"{median(ratios):.2f}", _spread(ratios))
    if results.rowwise:
        times = median(results.over_rowwise)
        rates.add_row(
            "row by row, a frame a request",
            f"{median(results.rowwise):,.0f}",
            f"system / {times:,.0f}",
            _spread(results.over_rowwise),
        )
    if rates.row_count:
        console.print(rates)
    if results.system:
        console.print(_costs(results))
    if results.growth:
        console.print(_growth(results))
    if results.rewrap:
        console.print(_rewrap(results))


def write(results: Results, path: Path) -> None:
    """Every round's figures as JSON."""
    figures = {
        "machine": machine(),
        "floor": results.floor,
        "system": {size: [_run(run) for run in runs] for size, runs in results.system.items()},
        "system_of_floor": results.of_floor,
        "half_load": {size: _run(run) for size, run in results.paced.items()},
        "rowwise": results.rowwise,
        "system_over_rowwise": results.over_rowwise,
        "growth": results.growth,
        "rewrap": results.rewrap,
        "growth_runs": {what: [_run(run) for run in runs] for what, runs in results.growth_runs.items()},
    }
    path.write_text(json.dumps(figures, indent=1) + "\n")


def machine() -> str:
    """What it ran on, in a line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} CPUs, {memory_gib:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def _costs(results: Results) -> Table:
    names = ["worker", "PostgreSQL", "web", "Redis", "schedule"]
    table = Table(title="What a frame costs: CPU in us; memory at the end, MiB (shared pages once)")
    for column in ("frames an uplink", *names, "p50 at half load", "p99", "p50 at full load"):
        table.add_column(column, justify="right")
    for size, runs in sorted(results.system.items()):
        cells = []
        for name in names:
            cpu = median(run.cpu[name] / run.frames for run in runs) * 1e6
            memory = max(run.memory[name] for run in runs) / 2**20
            cells.append(f"{cpu:.2f} / {memory:.0f}")
        paced = results.paced.get(size)
        latency = [_ms(percentile(paced.latencies, p)) if paced else "" for p in (50, 99)]
        full = median(percentile(run.latencies, 50) for run in runs)
        table.add_row(f"{size:,}", *cells, *latency, _ms(full))
    return table


def _growth(results: Results) -> Table:
    table = Table(title="Growth: uplinks of 1,000 frames, each pair against the base in the same round")
    for column in ("", "base", "grown", "ratio", "rounds from - to"):
        table.add_column(column, justify="right")
    for what, pairs in results.growth.items():
        ratios = [grown / base for base, grown in pairs]
        base, grown = (f"{median(side):,.0f}" for side in zip(*pairs, strict=True))
        table.add_row(what, base, grown, f"{median(ratios):.2f}", _spread(ratios))
    return table


def _rewrap(results: Results) -> Table:
    table = Table(title="Rotation of the master key, one process: keys a second (medians)")
    for column in ("bare loop", "rotation", "ratio", "rounds from - to"):
        table.add_column(column, justify="right")
    ratios = [rotation / bare for bare, rotation in results.rewrap]
    bare, rotation = (f"{median(side):,.0f}" for side in zip(*results.rewrap, strict=True))
    table.add_row(bare, rotation, f"{median(ratios):.2f}", _spread(ratios))
    return table


def percentile(values: list[float], percent: int) -> float:
    """The percentile of values; the only value of one."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def _spread(values: list[float]) -> str:
    form = ",.0f" if min(values) > 10 else ".2f"
    return f"{min(values):{form}} - {max(values):{form}}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def _run(run: SystemRun) -> dict[str, object]:
    return {
        "frames": run.frames,
        "seconds": run.seconds,
        "rate": run.rate,
        "latency_p50_s": percentile(run.latencies, 50),
        "latency_p99_s": percentile(run.latencies, 99),
        "cpu_us_per_frame": {name: used / run.frames * 1e6 for name, used in run.cpu.items()},
        "memory_octets": run.memory,
    }
