"""One run of the benchmark: the selected parts in turn."""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import dlms, feed, fleet, parts, report, rewrap, schemes
from bench.pages import Asked
from bench.parts import Bench, Results, Sizes
from bench.site import make_template, use_database
from keyvault import master_key


def run(args: argparse.Namespace, folder: Path, console: Console) -> Results:
    """Measure, print the tables, write the JSON. Django is set up and the services run."""
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:6.1f} s] {text}", markup=False, highlight=False)

    if not Path(os.environ["MASTER_KEY_FILE"]).exists():  # otherwise it was kept with the database that needs it
        master_key.init(Path(os.environ["MASTER_KEY_FILE"]))
    with fleet.pool() as executor:
        bench = Bench(folder, dict(os.environ), executor, say)
        use_database("postgres")
        try:
            say("migrating")
            make_template()
            if "pages" in args.parts:
                parts.pages(bench, args.page_meters, Asked(args.warm_requests, args.requests, args.users))
            if set(args.parts) - {"pages"}:
                sizes = Sizes(args.rounds, args.frames, args.sizes, args.rowwise_frames, args.warm_rounds)
                if set(args.parts) - {"pages", "schemes", "dlms", "feed"}:
                    _measure(bench, args, sizes)
                if "feed" in args.parts:
                    feed.measure(bench, args.concentrators, args.concentrator_meters, sizes)
                if "schemes" in args.parts:
                    schemes.against_ccm(bench, args.concentrators, args.concentrator_meters, sizes)
                if "dlms" in args.parts:
                    dlms.against_ccm(bench, args.concentrators, args.concentrator_meters, sizes, args.dlms_cosem)
        finally:
            use_database("postgres")
            if bench.results != Results():
                report.show(bench.results, console)
    if args.json:
        report.write(bench.results, args.json)
    return bench.results


def _measure(bench: Bench, args: argparse.Namespace, sizes: Sizes) -> None:
    with bench.site(args.concentrators, args.concentrator_meters) as site, bench.stack(site) as running:
        bench.warm(site, running)
        if {"floor", "system"} & set(args.parts):
            parts.against_floor(bench, site, running, sizes, with_system="system" in args.parts)
        if "system" in args.parts:
            parts.at_half_load(bench, site, running, sizes)
        if "rowwise" in args.parts:
            parts.against_rowwise(bench, site, running, sizes)
        if "growth" in args.parts:
            grown = replace(sizes, rounds=args.growth_rounds)
            parts.growth(bench, site, running, grown, args.meters, args.readings)
        if "rewrap" in args.parts:
            rewrap.against_bare_loop(bench, site, args.rounds)
