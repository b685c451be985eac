"""The arguments of `python -m bench`, and the environment of its processes."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from ami_headend.local import embedded

PARTS = ("floor", "system", "rowwise", "growth", "schemes", "dlms", "rewrap", "feed", "pages")

_EPILOG = """examples:
  python -m bench                                          everything, about half an hour
  python -m bench --meters 1000,100000 --readings 5000000  everything but on the largest fleet, about ten minutes
  python -m bench --parts pages --keep ../million          pages at a million meters; kept for the next run
  python -m bench --parts schemes                          each protection scheme against ccm, about ten minutes
  python -m bench --parts dlms --dlms-cosem ../cosem/bin/python    DLMS against ccm, and a bare loop of dlms-cosem
  python -m bench --parts feed                             what the feed costs ingest, and how fast it is read
  python -m bench --parts floor,system --rounds 9          the ratio to the floor alone, measured more often
  make bench ARGS='--frames 200000 --json result.json'
"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the arguments; exit with 2 and one sentence if one makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures the head-end on its own PostgreSQL and Redis, in a temporary folder. "
        "Nothing else should run on the machine meanwhile. Ctrl-C stops everything that it started.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", type=_parts, default=PARTS, help=f"of {','.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=positive, default=5, help="paired rounds (default: 5)")
    parser.add_argument("--frames", type=positive, default=100_000, help="frames in a measurement (default: 100000)")
    parser.add_argument("--sizes", type=numbers, default=[200, 1000, 5000], help="frames in an uplink (200,1000,5000)")
    parser.add_argument("--concentrators", type=positive, default=10, help="concentrators of the base (default: 10)")
    parser.add_argument("--concentrator-meters", type=positive, default=1000, help="meters of each (default: 1000)")
    parser.add_argument("--rowwise-frames", type=positive, default=600, help="frames sent row by row (default: 600)")
    parser.add_argument("--growth-rounds", type=positive, default=3, help="paired rounds of growth (default: 3)")
    parser.add_argument(
        "--warm-rounds", type=_count, default=4, help="rounds of growth and schemes that do not count (4)"
    )
    parser.add_argument(
        "--meters", type=numbers, default=[1_000, 100_000, 1_000_000], help="growth: meters (1000,100000,1000000)"
    )
    parser.add_argument("--readings", type=numbers, default=[20_000_000], help="growth: stored readings (20000000)")
    parser.add_argument("--page-meters", type=positive, default=1_000_000, help="pages: meters (default: 1000000)")
    parser.add_argument("--requests", type=positive, default=20, help="pages: requests to an address (default: 20)")
    parser.add_argument("--warm-requests", type=_count, default=1, help="pages: requests before those (default: 1)")
    parser.add_argument("--users", type=positive, default=20, help="pages: users beside ingest (default: 20)")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep services and the database of pages there for the next run"
    )
    parser.add_argument(
        "--dlms-cosem", type=Path, metavar="PYTHON", help="dlms: a Python that has dlms-cosem 21.3.2, for its loop"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure of every round there")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder (default: the system's)")
    return parser.parse_args(argv)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return parts


def positive(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def numbers(text: str) -> list[int]:
    return [positive(number) for number in text.split(",")]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the processes: those of `manage.py up`, without limits that would stop a benchmark.

    The benchmark itself owns the database: it makes databases and empties tables.
    """
    return {
        **env,
        "DATABASE_URL": embedded.database_url(Path(env["AMI_VAR_DIR"]), embedded.OWNER),
        "TLS": "0",
        "TWO_FACTOR_REQUIRED": "0",  # the benchmark signs in with its password
        "UPLINK_RATE": "1000000/second",
        "UPLINK_QUEUE_MAX": "1000000",
        "UPLINK_QUEUE_SHARE": "1000000",
        "UPLINK_OCTETS_PER_HOUR": str(2**40),
        "DJANGO_SETTINGS_MODULE": "ami_headend.settings",
        "MASTER_KEY_FILE": os.fspath(Path(env["AMI_VAR_DIR"]) / "master.keys"),
    }
