"""Moving concentrators and their meters to another cell (docs/scaling.md): what A and B do when A is split.

One rule makes it exact: from ``release`` on, A accepts no frame of these meters and gives them no command, and all that
A did before is in the backup that is taken afterwards. B, restored from it, takes in these and gives away all others.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from ami_headend.core import bearer
from ami_headend.core.csv_tables import BadLine, FileError
from ami_headend.core.sql import fetch_rows
from ami_headend.core.text import counted
from concentrators.fleet import registry, tokens
from concentrators.fleet.assignments import holding
from concentrators.models import Assignment, Concentrator, ConcentratorToken, Uplink
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.models import Meter, MeterStatus
from meters.registry import lifecycle

_LOOK_EVERY_S = 0.2
_ACCESS = ("is_active", "moved_to")
_BACKEND = re.compile("[A-Za-z0-9_.:-]+")
_FILE_MAX_OCTETS = 32 * 2**20


class CellError(ValueError):
    """Something that cannot be moved so; the message says why and what to do."""


@dataclass(frozen=True)
class Moved:
    """How many concentrators and meters an act moved."""

    concentrators: int
    meters: int


def chosen(path: Path) -> tuple[list[Concentrator], list[BadLine]]:
    """Return the concentrators that a file names, one a line, by id; and its bad lines. FileError if it is none."""
    try:
        if path.stat().st_size > _FILE_MAX_OCTETS:
            raise FileError(f"{path} has more than {_FILE_MAX_OCTETS} octets: name a concentrator on each line")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}") from None
    names = {text: number for number, line in enumerate(lines, 1) if (text := line.strip()) and text[0] != "#"}
    found = {one.name: one for one in Concentrator.objects.filter(name__in=names).order_by("pk")}
    bad = [BadLine(number, f"there is no concentrator {name}") for name, number in names.items() if name not in found]
    if not names:
        raise FileError(f"{path} names no concentrator: write one on each line")
    return list(found.values()), bad


def map_lines(concentrators: Sequence[Concentrator], backend: str, now: datetime) -> list[str]:
    """Return the lines of the entrance's map that lead each valid token of these concentrators to a backend.

    A token is named by its SHA-256, as it is stored: nobody can make it from that. CellError.
    """
    if not _BACKEND.fullmatch(backend):
        raise CellError("--backend takes the name of a backend in haproxy.cfg: letters, digits, and any of - _ . :")
    rows = ConcentratorToken.objects.filter(concentrator__in=concentrators).order_by("concentrator_id", "pk")
    return [f"{bytes(row.digest).hex()} {backend}" for row in rows if tokens.state(row, now) == "valid"]


def release(actor: Actor, concentrators: Sequence[Concentrator], to: str, now: datetime) -> Moved:
    """In A: shut concentrators out and give their meters to the cell ``to``. CellError: nothing was changed.

    Meters that are suspended stay so in both. If it is interrupted, the same call goes on. ``wait_until_settled`` comes
    next.
    """
    check_release(concentrators, to, now)
    let_go = [one for one in concentrators if not one.moved_to]
    for concentrator in let_go:
        concentrator.is_active, concentrator.moved_to = False, to
        registry.save_as(actor, concentrator, _ACCESS)
    with transaction.atomic():
        meters = lifecycle.move_out(_in_service(_meters_of(_moving(to), now)), now)
        if let_go or meters:
            _record(actor, "cell.release", {"to": to}, Moved(len(let_go), meters))
    return Moved(len(let_go), meters)


def check_release(concentrators: Sequence[Concentrator], to: str, now: datetime) -> None:
    """CellError if these cannot be given to the cell."""
    _check_names("--to", to)
    if before := _moving(to).exclude(pk__in=[one.pk for one in concentrators]).order_by("pk").first():
        raise CellError(
            f"concentrator {before} was released to cell {to} before: name all that go there, or a new cell"
        )
    if elsewhere := [one for one in concentrators if one.moved_to not in ("", to)]:
        raise CellError(f"concentrator {elsewhere[0]} was moved to cell {elsewhere[0].moved_to} already")
    if shut := [one for one in concentrators if not one.is_active and not one.moved_to]:
        raise CellError(f"concentrator {shut[0]} is not active, and would be in the other cell: leave it out")
    if later := _to_change(concentrators, now):
        raise CellError(
            f"meter {later.meter} changes its concentrator after this instant ({later}): release them once that is "
            "over, or assign it for good before"
        )


def wait_until_settled(to: str, timeout_s: float) -> None:
    """In A: wait until all is verified that was taken from the concentrators that move, and nothing that began before
    this is under way. CellError if that takes longer; ask again then.
    """
    deadline = time.monotonic() + timeout_s
    (asked_at,) = fetch_rows("SELECT clock_timestamp()")[0]
    while why := _unsettled(to, asked_at):
        if time.monotonic() > deadline:
            raise CellError(f"after {timeout_s:g} s {why}. Look at the workers, then run the same command again")
        time.sleep(_LOOK_EVERY_S)


def take_back(actor: Actor, to: str, now: datetime) -> Moved:
    """In A, as long as B has not begun: let in the concentrators and meters that were released to ``to``.

    If it is interrupted, the same call goes on. CellError: nothing was changed.
    """
    _check_released(to)
    return _let_in(actor, to, now, "cell.take_back")


def keep(actor: Actor, of: str, now: datetime) -> Moved:
    """In B, a restore of A, before its workers start: let in what was released to this cell, and give all else to
    ``of``, the cell that it was. All or nothing. CellError: nothing was changed.
    """
    check_keep(of)
    with transaction.atomic():
        here = _meters_of(_moving(settings.CELL), now)
        lifecycle.move_out(Meter.objects.exclude(pk__in=here.values("pk")), now)
        for concentrator in Concentrator.objects.filter(moved_to="").order_by("pk"):
            concentrator.is_active, concentrator.moved_to = False, of
            registry.save_as(actor, concentrator, _ACCESS)
        return _let_in(actor, settings.CELL, now, "cell.keep")


def check_keep(of: str) -> None:
    """CellError if this is not the cell that concentrators were released to."""
    _check_names("--of", of)
    if not _moving(settings.CELL).exists():
        raise CellError(
            f"no concentrator was released to cell {settings.CELL}: restore a backup of cell {of} that was made after "
            f"manage.py cell release, or this was done already"
        )


def forget(actor: Actor, to: str, now: datetime) -> int:
    """In A, once B works: revoke the tokens of the concentrators that moved there, so that nobody lets one in again,
    and mark their suspended meters as moved, too. Return how many tokens. CellError: nothing was changed.
    """
    _check_released(to)
    lifecycle.move_out(_meters_of(_moving(to), now), now)
    rows = ConcentratorToken.objects.filter(concentrator__moved_to=to, revoked_at=None).select_related("concentrator")
    found = list(rows.order_by("pk"))
    for token in found:
        registry.revoke_token(actor, token)
    return len(found)


def give_away(now: datetime) -> int:
    """Give the meters of all concentrators that were moved to another cell to it, after a restore of an older backup.

    Return how many.
    """
    return lifecycle.move_out(_meters_of(Concentrator.objects.exclude(moved_to=""), now), now)


def would_release(concentrators: Sequence[Concentrator], to: str, now: datetime) -> Moved:
    """Return what ``release`` would move. CellError."""
    check_release(concentrators, to, now)
    meters = _meters_of(Concentrator.objects.filter(pk__in=[one.pk for one in concentrators]), now)
    return Moved(sum(not one.moved_to for one in concentrators), _in_service(meters).count())


def would_keep(of: str, now: datetime) -> Moved:
    """Return what ``keep`` would let in. CellError."""
    check_keep(of)
    moving = _moving(settings.CELL)
    return Moved(moving.count(), _meters_of(moving, now).filter(status=MeterStatus.MOVED).count())


def _check_names(option: str, other: str) -> None:
    if not settings.CELL:
        raise CellError("this head-end has no name among cells: set CELL for all its processes")
    if not bearer.is_cell(other) or other == settings.CELL:
        raise CellError(f"{option} takes the name of another cell than this, which is {settings.CELL}")


def _check_released(to: str) -> None:
    _check_names("--to", to)
    if not _moving(to).exists():
        raise CellError(
            f"no concentrator is released to cell {to}: manage.py concentrator list says where each went, or this was "
            "done already"
        )


def _to_change(concentrators: Sequence[Concentrator], now: datetime) -> Assignment | None:
    """Return an assignment that begins or ends later: A and B would not agree whose its meter is."""
    ids = [one.pk for one in concentrators]
    theirs = Assignment.objects.filter(concentrator__in=ids)
    rows = Assignment.objects.filter(meter__in=theirs.filter(Q(valid_to=None) | Q(valid_to__gt=now)).values("meter"))
    changing = rows.filter(Q(valid_from__gt=now) | Q(valid_to__gt=now))
    return changing.select_related("meter", "concentrator").order_by("pk").first()


def _moving(to: str) -> QuerySet[Concentrator]:
    return Concentrator.objects.filter(moved_to=to)


def _meters_of(concentrators: QuerySet[Concentrator], now: datetime) -> QuerySet[Meter]:
    return Meter.objects.filter(pk__in=holding(now).filter(concentrator__in=concentrators.values("pk")).values("meter"))


def _in_service(meters: QuerySet[Meter]) -> QuerySet[Meter]:
    return meters.filter(status=MeterStatus.COMMISSIONED)


def _let_in(actor: Actor, released_to: str, now: datetime, act: str) -> Moved:
    concentrators = list(_moving(released_to).order_by("pk"))
    with transaction.atomic():
        meters = lifecycle.take_in(_meters_of(_moving(released_to), now))
        _record(actor, act, {"of": released_to}, Moved(len(concentrators), meters))
    for concentrator in concentrators:
        concentrator.is_active, concentrator.moved_to = True, ""
        registry.save_as(actor, concentrator, _ACCESS)
    return Moved(len(concentrators), meters)


def _record(actor: Actor, act: str, cell: dict[str, str], moved: Moved) -> None:
    counts = {"concentrators": moved.concentrators, "meters": moved.meters}
    chain.record(actor, act, {"cell": settings.CELL, **cell, **counts})


def _unsettled(to: str, asked_at: datetime) -> str:
    """Return what is not over; an empty text if all is.

    A transaction that began earlier may have read a meter as it was, and store what it decided by that.
    """
    unverified = Uplink.objects.filter(concentrator__moved_to=to, verified_at=None).count()
    if unverified:
        return counted(
            unverified,
            "uplink of these concentrators is not verified",
            "uplinks of these concentrators are not verified",
        )
    fetch_rows("SELECT pg_stat_clear_snapshot()")  # within a transaction the view stays as it was at its first look
    (older,) = fetch_rows(
        """SELECT count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
             AND xact_start <= %s""",
        asked_at,
    )[0]
    return f"{counted(older, 'transaction is open that', 'transactions are open that')} began before" if older else ""
