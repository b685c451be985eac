"""manage.py cell: what it says, what it refuses, and what a new cell does not do in the name of the former one."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from ami_headend.api_tokens import tokens as program_tokens
from ami_headend.core.sql import fetch_rows
from concentrators.fleet import cells, tokens
from concentrators.models import Concentrator, FeedDelivery
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.models import Meter
from tests.concentrators.fleet import commission
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
ANN = Actor("ann", "test")


def cell(*words: str) -> str:
    said = StringIO()
    call_command("cell", *words, stdout=said, stderr=StringIO())
    return said.getvalue()


@pytest.fixture(autouse=True)
def _no_other_transaction(db: None) -> None:
    """What a test before left open would be waited for: a release waits for all that began before it."""
    fetch_rows(
        """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"""
    )


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> Path:
    settings.CELL = "a"
    for name in ("moves", "stays"):
        concentrator: Concentrator = ConcentratorFactory.create(name=name)
        commission(1, concentrator)
        tokens.issue(concentrator)
    path = tmp_path / "moving.txt"
    path.write_text("moves\n")
    return path


def test_the_whole_way(file: Path, settings: Settings) -> None:
    program_tokens.make(ANN, "billing", ["feed"], 30, timezone.now())
    (line,) = cell("tokens", str(file), "--backend", "hold").splitlines()
    assert line.split()[1] == "hold"
    assert cell("release", str(file), "--to", "b", "--dry-run") == "Would release 1 concentrator with 1 meter to b.\n"
    assert "Released 1 concentrator with 1 meter to b." in cell("release", str(file), "--to", "b", "--wait", "5")
    settings.CELL = "b"
    assert "Would let in 1 concentrator with 1 meter" in cell("keep", "--of", "a", "--dry-run")
    said = cell("keep", "--of", "a")
    assert "Cell b has 1 concentrator with 1 meter; all else is of cell a." in said
    assert "Revoked tokens of programs: billing." in said
    assert list(Meter.objects.order_by("pk").values_list("status", flat=True)) == ["commissioned", "moved"]
    assert AuditRecord.objects.filter(act__in=["cell.release", "cell.keep", "api_token.revoke"]).count() == 3


def test_a_delivery_of_the_former_cell_is_paused(file: Path, settings: Settings, tmp_path: Path) -> None:
    settings.FEED_FOLDERS = [str(tmp_path)]
    words = ["set", "mdm", "--kind", "folder", "--address", str(tmp_path)]
    call_command("feed_delivery", *words, stdout=StringIO(), stderr=StringIO())
    cells.release(ANN, [Concentrator.objects.get(name="moves")], "b", timezone.now())
    settings.CELL, settings.FEED_FOLDERS = "b", []  # which would refuse every other change of it
    assert "Paused deliveries of the feed: mdm." in cell("keep", "--of", "a")
    assert not FeedDelivery.objects.get().is_enabled


def test_what_is_refused_says_what_to_do(file: Path) -> None:
    with pytest.raises(CommandError, match="no concentrator was released to cell a"):
        cell("keep", "--of", "b")
    cell("release", str(file), "--to", "b", "--wait", "5")
    with pytest.raises(CommandError, match="confirm with --yes"):
        cell("take-back", "--to", "b")
    assert cell("take-back", "--to", "b", "--yes") == "Let in 1 concentrator with 1 meter again.\n"
    file.write_text("moves\nnobody\n")
    with pytest.raises(CommandError, match="1 bad line: nothing was done"):
        cell("release", str(file), "--to", "b")
    assert Concentrator.objects.filter(is_active=True).count() == 2
