"""The table at the end, and every figure as JSON."""

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import psutil
from rich.console import Console
from rich.table import Table

from bench.dlms import FRAMES_GOAL, LIBRARY_GOAL, READINGS_GOAL, DlmsResults
from bench.feed import INGEST_GOAL, PARQUET_GOAL, FeedResults
from bench.measure import SystemRun
from bench.pages import LIMIT_S, PageResults, Timed
from bench.parts import Results
from bench.scheme_keys import DLMS, MIXED
from bench.schemes import GOALS, OF_MEAN_GOAL, OF_OPENINGS_GOAL, SchemeResults, SchemeRuns


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
    for table in _against_ccm(results):
        console.print(table)
    if results.rewrap:
        console.print(_rewrap(results))
    for table in _of_reading(results):
        console.print(table)


def _of_reading(results: Results) -> Iterator[Table]:
    if results.feed is not None:
        yield _feed(results.feed)
    if results.pages is not None:
        yield from _pages(results.pages)


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
        "schemes": results.schemes and _scheme_figures(results.schemes),
        "dlms": results.dlms and _dlms_figures(results.dlms),
        "rewrap": results.rewrap,
        "feed": results.feed
        and {
            "cpu_us_with_lots_and_without": results.feed.ingest,
            "rows_s": results.feed.rows_s,
            "octets_a_row": results.feed.octets,
        },
        "pages": results.pages and _page_figures(results.pages),
        "growth_runs": {what: [_run(run) for run in runs] for what, runs in results.growth_runs.items()},
    }
    path.write_text(json.dumps(figures, indent=1) + "\n")


def machine() -> str:
    """Describe the machine in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} CPUs, {memory_gib:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def _costs(results: Results) -> Table:
    names = ["worker", "PostgreSQL", "web", "Redis", "schedule"]
    table = Table(title="What a frame costs: CPU in us; memory at the end, MiB (shared pages once)")
    for column in ("frames an uplink", *names, "WAL, octets", "p50 at half load", "p99", "p50 at full load"):
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
        wal = f"{median(run.wal_octets / run.frames for run in runs):,.0f}"
        table.add_row(f"{size:,}", *cells, wal, *latency, _ms(full))
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


def _pages(pages: PageResults) -> Iterator[Table]:
    by_kind: dict[str, list[Timed]] = {}
    for timed in pages.timed:
        by_kind.setdefault(timed.address.kind, []).append(timed)
    over = [timed for timed in pages.timed if percentile(timed.seconds, 95) > LIMIT_S]
    table = Table(title=f"Pages: {len(over)} of {len(pages.timed)} addresses over {_ms(LIMIT_S)} at p95")
    for column in ("", "addresses", "median p50", "median p95", "worst p95", "over the limit"):
        table.add_column(column, justify="left" if not column else "right")
    for kind, of_kind in by_kind.items():
        high = [percentile(one.seconds, 95) for one in of_kind]
        middle = median(median(one.seconds) for one in of_kind)
        count = str(sum(one > LIMIT_S for one in high))
        table.add_row(kind, str(len(of_kind)), _ms(middle), _ms(median(high)), _ms(max(high)), count)
    yield table
    slow = Table(title="Over the limit")
    for column in ("address", "p50", "p95"):
        slow.add_column(column, justify="left" if column == "address" else "right", overflow="fold")
    for one in sorted(over, key=lambda timed: -percentile(timed.seconds, 95)):
        slow.add_row(one.address.path, _ms(median(one.seconds)), _ms(percentile(one.seconds, 95)))
    if over:
        yield slow
    yield _downloads(pages)


def _downloads(pages: PageResults) -> Table:
    table = Table(title="Downloads, and users beside ingest")
    for column in ("", "rows", "seconds", "rows/s", "memory grew by"):
        table.add_column(column, justify="left" if not column else "right")
    for one in pages.exports:
        rate = f"{one.rows / one.seconds:,.0f}" if one.rows else ""
        table.add_row(
            one.name, f"{one.rows:,}" if one.rows else "", f"{one.seconds:.1f}", rate, f"{one.grew >> 20} MiB"
        )
    for what, seconds in (("20 users' pages", pages.with_users), ("posts, 1,000 frames/s", pages.posts)):
        if seconds:
            told = f"p50 {_ms(percentile(seconds, 50))}, p95 {_ms(percentile(seconds, 95))}"
            table.add_row(f"{what}: {told}", f"{len(seconds):,}", "", "", "")
    return table


def _page_figures(pages: PageResults) -> dict[str, object]:
    return {
        "addresses": {one.address.path: one.seconds for one in pages.timed},
        "exports": [one._asdict() for one in pages.exports],
        "with_users_s": pages.with_users,
        "posts_s": pages.posts,
    }


def _against_ccm(results: Results) -> Iterator[Table]:
    if results.schemes is not None and results.schemes.runs:
        yield _schemes(results.schemes)
    if results.dlms is not None and results.dlms.runs:
        yield _dlms(results.dlms)


def _schemes(schemes: SchemeResults) -> Table:
    """A row a scheme, as far as they were measured; the mixed fleet against the weighted mean of its parts as well."""
    table = Table(title="Schemes: uplinks of 1,000 frames, each against ccm in the same round")
    for column in ("", "frames/s", "of ccm", "rounds from - to", "goal", "CPU us a frame", "ccm's", "first frames"):
        table.add_column(column, justify="left" if not column else "right")
    for kind, runs in schemes.runs.items():
        first = f"{runs.first[1].rate / runs.first[0].rate:.2f}"
        if runs.rounds:
            rate = f"{median(run.rate for _, run in runs.rounds):,.0f}"
            ccm_cpu, cpu = (f"{median(run.cpu_us for run in side):.1f}" for side in zip(*runs.rounds, strict=True))
            goal = f"{GOALS[kind]}" if kind in GOALS else ""
            table.add_row(kind, rate, *_ratio(runs.of_ccm), goal, cpu, ccm_cpu, first)
    if schemes.is_complete:
        bare = f"{2 * median(schemes.openings):,.0f}"
        table.add_row(
            "sealed, of two bare loops of openings", bare, *_ratio(schemes.of_openings), f"{OF_OPENINGS_GOAL}"
        )
        mean = schemes.weighted_mean
        ratios = [ratio / mean for ratio in schemes.runs[MIXED].of_ccm]
        table.add_row(f"mixed, of the mean of its parts ({mean:.2f})", "", *_ratio(ratios), f"{OF_MEAN_GOAL}")
    return table


def _dlms(dlms: DlmsResults) -> Table:
    """What notifications of ten values and mixed uplinks reach of ccm, as far as they were measured."""
    table = Table(title="DLMS: uplinks of 1,000 frames, each against ccm in the same round")
    for column in ("", "frames/s", "ratio", "rounds from - to", "goal", "CPU us a frame", "ccm's"):
        table.add_column(column, justify="left" if not column else "right")
    for kind, runs in dlms.runs.items():
        if not runs.rounds:
            continue
        rate = f"{median(run.rate for _, run in runs.rounds):,.0f}"
        ccm_cpu, cpu = (f"{median(run.cpu_us for run in side):.1f}" for side in zip(*runs.rounds, strict=True))
        if kind == DLMS:
            table.add_row("frames of ten values, of ccm's", rate, *_ratio(runs.of_ccm), f"{FRAMES_GOAL}", cpu, ccm_cpu)
            table.add_row("their readings, of ccm's", "", *_ratio(dlms.readings_of_ccm), f"{READINGS_GOAL}")
            if dlms.library:
                bare = f"{median(dlms.library):,.0f}"
                table.add_row("of a bare loop of dlms-cosem 21.3.2", bare, *_ratio(dlms.of_library), "")
                ours = f"{median(dlms.opening):,.0f}"
                what = "opening and decoding alone, of that loop"
                table.add_row(what, ours, *_ratio(dlms.opening_of_library), f"{LIBRARY_GOAL}")
        else:
            what = f"{kind} in one uplink, of ccm (mean of its parts: {dlms.mixed_mean:.2f})"
            table.add_row(what, rate, *_ratio(runs.of_ccm), "", cpu, ccm_cpu)
    return table


def _ratio(ratios: list[float]) -> tuple[str, str]:
    return f"{median(ratios):.2f}", _spread(ratios)


def _scheme_figures(schemes: SchemeResults) -> dict[str, object]:
    return {**_pair_figures(schemes.runs), "hpke_openings_of_one_process": schemes.openings}


def _dlms_figures(dlms: DlmsResults) -> dict[str, object]:
    return {
        **_pair_figures(dlms.runs),
        "opening_of_one_process": dlms.opening,
        "dlms_cosem_of_one_process": dlms.library,
    }


def _pair_figures(runs: dict[str, SchemeRuns]) -> dict[str, object]:
    def pair(of_round: tuple[SystemRun, SystemRun]) -> dict[str, object]:
        return dict(zip(("ccm", "scheme"), map(_run, of_round), strict=True))

    return {
        "rounds": {kind: [pair(one) for one in found.rounds] for kind, found in runs.items()},
        "first_frames": {kind: pair(found.first) for kind, found in runs.items()},
    }


def _feed(found: FeedResults) -> Table:
    table = Table(title=f"The feed, of CPU in one process and its server process; {found.octets:.1f} octets a row")
    for column in ("", "median", "rounds from - to", "goal"):
        table.add_column(column, justify="left" if not column else "right")
    ratios = [with_lots / without for with_lots, without in found.ingest]
    table.add_row("storing with lots, of storing without", f"{found.ratio:.3f}", _spread(ratios), f"{INGEST_GOAL}")
    for name, rates in found.rows_s.items():
        goal = f"{PARQUET_GOAL:,}" if name == "parquet" else ""
        table.add_row(f"rows/s as {name}", f"{median(rates):,.0f}", _spread(rates), goal)
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
    """Return a percentile of values, or the only value."""
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
        "wal_octets_per_frame": run.wal_octets / run.frames,
    }
