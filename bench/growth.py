"""What grows with the size of one database: `python -m bench.growth --meters 1000000 --readings 1000000,100000000`.

A database of that many meters (bench/million.py) gets one number of readings after the other, over months, as
households have them (bench/growth_fill.py). At each number everything is measured that may grow
(bench/growth_costs.py), and at the last one the archive (bench/growth_archive.py). With --keep a run that was stopped
goes on with the part where it was; its folder holds the figures, too. Who stops it within the archive's part begins
anew, in another folder.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import django
from rich.console import Console

from ami_headend.local import embedded
from bench import arguments

Say = Callable[[str], None]
_KIND = "growth"
_GREW, _GREW_MS = 2.0, 5.0  # a question that costs more than so many times as much, and more than so much, is named


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = arguments.positive
    parser.add_argument("--meters", type=number, default=2_000, help="meters (2000)")
    parser.add_argument("--readings", type=arguments.numbers, default=[50_000, 500_000], help="standing readings")
    parser.add_argument("--seed", type=int, default=1, help="of the households' values (1)")
    parser.add_argument("--rounds", type=number, default=3, help="rounds of ingest that count (3)")
    parser.add_argument("--requests", type=number, default=3, help="requests to an address that count (3)")
    parser.add_argument("--months", type=int, default=1, help="months to archive at the last number; 0: none (1)")
    parser.add_argument(
        "--dense", type=int, default=2, help="intervals of all meters on one day of the last of them (2)"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the database and the figures there")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder (default: the system's)")
    return parser.parse_args(argv)


class Figures:
    """The figures in the folder, by number of readings and part; a part that is there is not measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.all: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def once(self, readings: int, part: str, measure: Callable[[], Any]) -> Any:
        of_step = self.all.setdefault(str(readings), {})
        if part not in of_step:
            of_step[part] = _plain(measure())
            self._path.write_text(json.dumps(self.all, indent=1) + "\n")
        return of_step[part]


def is_measured(figures: Mapping[str, Mapping[str, Any]], number: int, last: int, months: int) -> bool:
    """Whether nothing is left to measure at this number of readings: its rows are not filled in again then."""
    ends_with = "tasks" if number != last else "archive" if months else "copies"
    return ends_with in figures.get(str(number), {})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def run(args: argparse.Namespace, folder: Path, say: Say) -> Figures:
    """Fill and measure. Django is set up and the services run."""
    from bench import fleet, growth_archive, growth_costs, growth_fill, million  # noqa: PLC0415 - as in __main__
    from bench.site import make_template, use_database  # noqa: PLC0415
    from keyvault import master_key  # noqa: PLC0415

    if not Path(os.environ["MASTER_KEY_FILE"]).exists():
        master_key.init(Path(os.environ["MASTER_KEY_FILE"]))
    use_database("postgres")
    make_template()
    name = million.ready(args.meters, say, _KIND, day_intervals=0)
    growth_fill.prepare()
    figures = Figures(folder / "figures.json")
    with fleet.pool() as executor:
        for number in args.readings:
            wanted = growth_fill.layout(number, args.meters, growth_fill.last_interval())
            if is_measured(figures.all, number, args.readings[-1], args.months):
                continue
            growth_fill.fill(wanted, args.meters, args.seed, say)
            parts: dict[str, Callable[[], Any]] = {
                "upkeep": growth_costs.upkeep,
                "sizes": growth_costs.sizes,
                "ingest": partial(growth_costs.ingest, executor, args.rounds),
                "questions": partial(growth_costs.questions, wanted, args.requests, say),
                "tasks": growth_costs.tasks,
            }
            for part, measure in parts.items():
                say(f"{number:,} readings: {part}")
                figures.once(number, part, measure)
        if number == args.readings[-1]:
            say("copies")
            figures.once(number, "copies", lambda: growth_costs.copies(name))
            if args.months:
                figures.once(number, "archive", partial(growth_archive.measure, wanted, args, folder, say))
    return figures


def show(figures: Mapping[str, Mapping[str, Any]], say: Say) -> None:
    """Print what there is by number of readings, and which questions grew."""
    for number, parts in figures.items():
        say(f"--- {int(number):,} readings: {json.dumps({key: parts.get(key) for key in ('sizes', 'copies')})}")
        for part in ("upkeep", "ingest", "archive"):
            say(f"{part}: {json.dumps(parts.get(part))}")
    numbers = list(figures)
    for part in ("questions", "tasks"):
        for name, first in figures[numbers[0]].get(part, {}).items():
            costs = [figures[number].get(part, {}).get(name) for number in numbers]
            told = ", ".join(
                "-" if one is None else f"{one['postgres_ms']:g} + {one['python_ms']:g} ms, {one['blocks']} blocks"
                for one in costs
            )
            last = (costs[-1] or first)["postgres_ms"]
            grew = last > max(_GREW_MS, _GREW * first["postgres_ms"])
            if grew or not name.startswith("/"):
                say(f"{'GREW ' * grew}{name} ({first['statements']} statements): {told}")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 0 if everything was measured, 1 if that was impossible, 130 after Ctrl-C."""
    args = _parsed(argv)
    console, began = Console(soft_wrap=True), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:6.0f} s] {text}", markup=False, highlight=False)

    bare = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}
    try:
        with tempfile.TemporaryDirectory(prefix="ami-headend-growth-", dir=args.folder) as made:
            folder = (args.keep or Path(made)).absolute()
            with embedded.services(folder / "var", bare) as env:
                os.environ.update(arguments.environment(env))
                os.environ.update(ARCHIVE_URL=(folder / "archive").as_uri(), ARCHIVE_AFTER_MONTHS="3")
                django.setup()
                show(run(args, folder, say).all, say)
    except embedded.EmbeddedError as error:
        console.print(str(error), style="red")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped." if args.keep is None else "Stopped: the same call goes on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
