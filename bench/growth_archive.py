"""What the archive costs at that size: each step of a month by `manage.py archive` in a process of its own, and
questions to a month before and after. The last month has one day with intervals of all meters.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.db import connection

from ami_headend.database_roles import grant_rights
from ami_headend.local import embedded
from bench import growth_costs, growth_fill
from bench.growth_costs import counted, of_command
from bench.growth_fill import Layout
from meters.archive_models import ArchivedMonth
from meters.models import Meter
from meters.readings import partitions
from meters.readings.obis import LOAD_PROFILE

_READINGS = "/api/v1/readings"


def measure(wanted: Layout, args: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Archive the oldest whole months, ask of them before and after, verify them, and restore the first."""
    grant_rights(embedded.WORKING_ROLE)
    first = datetime(wanted.days[0].year, wanted.days[0].month, 1, tzinfo=UTC)
    chosen = [partitions.month_after(first, 1 + number) for number in range(args.months)]
    say(f"archive: {args.dense} intervals of all meters on {chosen[-1]:%Y-%m-%d}")
    growth_fill.add_day(chosen[-1], args.dense, args.meters, args.seed)
    found = {}
    for month in chosen:
        say(f"archive: {month:%Y-%m}")
        found[f"{month:%Y-%m}"] = _month(month, wanted, folder, is_restored=month == chosen[0], say=say)
    return found


def _month(month: datetime, wanted: Layout, folder: Path, say: Callable[[str], None], *, is_restored: bool) -> Any:
    found: dict[str, Any] = {}
    questions = _questions(month, wanted)
    digests = {"before": _digest(month)} if is_restored else {}
    found["asked of the database"] = _asked(questions)
    for act in ("run", "verify", *(("restore",) if is_restored else ())):
        if act == "restore":
            found["asked of the files"] = _asked(questions)
            digests["archived"] = _digest(month)
        say(f"archive {act} {month:%Y-%m}")
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "archive", act, f"{month:%Y-%m}"]
        with of_command(command, dict(os.environ) | {"DATABASE_URL": _database_url()}) as (_, cost):
            pass
        found[act] = cost
    row = ArchivedMonth.objects.get(month=month)
    found["rows"] = sum(part["rows"] for part in row.parts)
    found["most rows of a day"] = max(part["rows"] for part in row.parts)
    found["octets a reading"] = sum(part["octets"] for part in row.parts) / found["rows"]
    if is_restored:
        digests["restored"] = _digest(month)
        found["csv is the same"] = len(set(digests.values())) == 1
    else:
        found["asked of the files"] = _asked(questions)
    return found


def _questions(month: datetime, wanted: Layout) -> dict[str, str]:
    """Return addresses that ask of a month: of one meter, and of all."""
    meter = Meter.objects.order_by("pk")[wanted.daily_meters // 2]
    of_one = {"meter": bytes(meter.system_title).hex(), "register": LOAD_PROFILE}
    whole = {"from": month.isoformat(), "to": partitions.month_after(month).isoformat()}
    second = {"from": (month + timedelta(days=1)).isoformat(), "to": (month + timedelta(days=2)).isoformat()}
    return {
        "a meter's load profile of the month": f"{_READINGS}?{urlencode(of_one | whole)}",
        "a page of 1,000 of all meters": f"{_READINGS}?{urlencode(whole | {'page_size': 1000})}",
        "a day of all meters as CSV": f"{_READINGS}?{urlencode(second | {'format': 'csv'})}",
    }


def _asked(paths: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    client, found = growth_costs.signed_in(), {}
    for name, path in paths.items():
        with counted() as cost:
            growth_costs.asked(client, path)
        found[name] = growth_costs.rounded([cost])
    return found


def _digest(month: datetime) -> str:
    """Return the SHA-256 of the month as CSV, as anybody downloads it."""
    period = {"from": month.isoformat(), "to": partitions.month_after(month).isoformat(), "format": "csv"}
    answer, digest = growth_costs.signed_in().get(f"{_READINGS}?{urlencode(period)}"), sha256()
    for part in answer.streaming_content:  # type: ignore[attr-defined]
        digest.update(part)
    return digest.hexdigest()


def _database_url() -> str:
    """Return the address of the database in use, for a process of its own."""
    url = urlsplit(embedded.database_url(Path(os.environ["AMI_VAR_DIR"]), embedded.OWNER))
    return url._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
