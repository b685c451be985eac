"""Bad input of `manage.py simulate` is named, and changes nothing."""

from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command

from concentrators.models import Concentrator
from concentrators.simulator.spool import Spool
from meters.models import Meter


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--readings", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--readings", __file__], "line 1: the header is"),
        (["--misbehave", "everything"], "no misbehaviour is called 'everything'"),
        (["--schemes", "ccm,rot13"], "no scheme is called 'rot13'; there are: all, ccm, session, mac, hop, sealed"),
        (["--schemes", "mac=0"], "a weight is a whole number from 1 to 100"),
        (["--schemes", ""], "no scheme is called ''"),
        (["--command-faults", "forget=0.1"], "no fault of a command is called 'forget'"),
        (["--as-recorded"], "--as-recorded needs --readings"),
        (["--demo", "--readings", "x.csv"], "--readings cannot be combined with --demo"),
        (["--interval-minutes", "7"], "must divide a day"),
        (["--interval-minutes", "10,15"], "multiple of the shortest"),
        (["--days", "5000"], "before what the head-end keeps"),
        (["--meters", "0"], "is not a whole number from 1"),
        (["--speed", "fast"], "neither a number above 0 nor max"),
        (["--speed", "nan"], "neither a number above 0 nor max"),
        (["--compress", "rar"], "invalid choice"),
        (["--url", "http://127.0.0.1:9"], "No head-end answers at http://127.0.0.1:9"),
        (["--url", "nonsense"], "--url nonsense"),
        (["--batch", "20000"], "an uplink has at most"),
    ],
)
def test_bad_input_changes_nothing(settings: LazySettings, tmp_path: Path, arguments: list[str], reason: str) -> None:
    settings.VAR_DIR = tmp_path
    with pytest.raises(CommandError, match=reason):
        call_command("simulate", *arguments)
    assert not Concentrator.objects.exists()
    assert not Meter.objects.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.django_db
def test_readings_outside_of_what_is_kept_are_refused(tmp_path: Path) -> None:
    readings = tmp_path / "readings.csv"
    readings.write_text("meter,timestamp,wh\na,2012-02-09T22:00:00Z,141\n")
    with pytest.raises(CommandError, match="the readings begin 2012-02-09, before what the head-end keeps"):
        call_command("simulate", "--readings", readings, "--as-recorded")
    readings.write_text("meter,timestamp,wh\na,2112-02-09T22:00:00Z,141\n")
    with pytest.raises(CommandError, match="end in the future"):
        call_command("simulate", "--readings", readings, "--as-recorded")


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / Spool.FILE).write_text("no database")
    with pytest.raises(CommandError, match="cannot hold the state"):
        call_command("simulate", "--state", tmp_path)
