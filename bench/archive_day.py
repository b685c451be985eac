"""What a file of one day of the archive takes, by the size of the fleet: CPU, octets, and the memory of a process.

    python -m bench.archive_day                              2,000 and 20,000 meters
    python -m bench.archive_day --meters 10000,100000

Meters send a register and an interval every 15 minutes: 192 readings a day. Values are those of the simulator's
households (concentrators/simulator/household.py), the number of an uplink grows as concentrators post. Each act is done
in a process of its own, by the product's own code; no database takes part.
"""

import argparse
import json
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import django
import pyarrow as pa

from bench import arguments
from concentrators.simulator.household import HouseholdLoad

DAY = datetime(2025, 6, 3, tzinfo=UTC)
TIMES = 96
_BATCH_METERS = 1_000  # of a concentrator, and of a batch
_START_S = int(DAY.timestamp())
_CAPTURED = [(_START_S + 900 * number) * 1_000_000 for number in range(TIMES)]


def batches(meters: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Yield the readings of the day in the order of a file."""
    concentrators = -(-meters // _BATCH_METERS)
    for concentrator in range(concentrators):
        load = HouseholdLoad(seed, _START_S)  # it remembers its households
        ids = range(concentrator * _BATCH_METERS + 1, min(meters, (concentrator + 1) * _BATCH_METERS) + 1)
        uplinks = [
            number * concentrators + (concentrator * 7919 + number * 31) % concentrators for number in range(TIMES)
        ]
        values: list[int] = []
        for meter in ids:
            energy = [value or 0 for value in load.energy_wh(meter, 0, TIMES, 15)]
            values += [*accumulate(energy[:-1], initial=meter * 1_237), *energy]
        yield _batch(ids, values, uplinks)


def _batch(ids: range, values: list[int], uplinks: list[int]) -> pa.RecordBatch:
    from meters.archive import layout  # noqa: PLC0415 - needs no settings, but its package does

    registers = [1] * TIMES + [6] * TIMES
    columns = [
        pa.array(_CAPTURED * 2 * len(ids), pa.timestamp("us", tz="UTC")),
        pa.array([meter for meter in ids for _ in registers], pa.int32()),
        pa.array(registers * len(ids), pa.int16()),
        pa.array(values, pa.int64()),
        pa.array(uplinks * 2 * len(ids), pa.int64()),
        pa.array(([0] * TIMES + [15] * TIMES) * len(ids), pa.int16()),
        pa.nulls(len(values), pa.int16()),
    ]
    return pa.record_batch(columns, schema=layout.SCHEMA)


def acts(folder: Path, meters: int, seed: int) -> dict[str, Callable[[], Any]]:
    """Return what is measured, in order; the first one writes the file."""
    from meters.archive import layout, reading, steps  # noqa: PLC0415
    from meters.archive.files import Store  # noqa: PLC0415

    place, name = Store(folder.as_uri()), "day.parquet"
    end = DAY + timedelta(days=1)
    part = layout.Part(name, f"{DAY:%Y-%m-%d}", 192 * meters, 0, "")
    month = reading.Month(DAY, end, [part], place)
    ahead = reading.Ahead()

    def write() -> None:
        layout.write(folder / name, batches(meters, seed))

    def verify() -> None:
        place.sha256(name)
        steps.read_again(place, part)

    def page() -> None:
        month.rows(reading.Wanted(DAY, end), 1_000)

    def export() -> None:
        wanted = reading.Wanted(DAY, end, ahead=ahead)
        for _ in range(5):
            if rows := month.rows(wanted, 20_000):
                wanted = wanted._replace(after=rows[-1][:3])

    def one_meter() -> None:
        month.rows(reading.Wanted(DAY, end, [meters // 2]), None)

    return {
        "values alone": lambda: sum(batch.num_rows for batch in batches(meters, seed)),
        "write": write,
        "verify": verify,
        "a meter": one_meter,
        "a page of 1,000": page,
        "an export's first 100,000": export,
    }


def _measured(folder: Path, meters: int, seed: int, name: str) -> dict[str, float]:
    act = acts(folder, meters, seed)[name]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    act()
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_s": spent, "us_a_reading": spent / meters / 192 * 1e6, "mib": peak / 1024, "mib_before": before / 1024}


def measure(meters: int, seed: int) -> dict[str, Any]:
    """Measure each act in a process of its own."""
    found: dict[str, Any] = {"readings": 192 * meters}
    with tempfile.TemporaryDirectory(prefix="ami-headend-day-") as made:
        folder = Path(made)
        for name in acts(folder, meters, seed):
            with get_context("spawn").Pool(1, set_up) as pool:
                found[name] = pool.apply(_measured, (folder, meters, seed, name))
        found["octets a reading"] = (folder / "day.parquet").stat().st_size / found["readings"]
    return found


def set_up() -> None:
    """Let Django load its models: the modules of the archive are beside them. Nothing connects to these addresses."""
    nowhere = {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    os.environ.update(nowhere, SECRET_KEY=secrets.token_urlsafe(64), DJANGO_SETTINGS_MODULE="ami_headend.settings")
    django.setup()


def main(argv: list[str] | None = None) -> int:
    """Measure each fleet and print its figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.archive_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--meters", type=arguments.numbers, default=[2_000, 20_000], help="fleets (2000,20000)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    set_up()
    for meters in args.meters:
        print(json.dumps({"meters": meters, **measure(meters, args.seed)}, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
