"""Security events on their way: noted with what they come from, sent until they were read, known again by their ids."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts.conditions import site
from ami_headend.alerts.models import Alert, AlertStep, Condition, Rule
from ami_headend.health import neighbours
from ami_headend.settings_checks import check_settings
from ami_headend.siem import pending, shipping, tasks
from ami_headend.siem.models import Pending, Shipping, Source
from ami_headend.signin import journal
from ami_headend.signin.models import SignInOutcome
from concentrators.models import Concentrator, FailureTally
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from tests.flows.stack import free_port, wait_for
from tests.siem.receiver import Manner, Receiver, authority, receiving

pytestmark = pytest.mark.django_db

ANN = Actor("ann", "192.0.2.7")
ID = re.compile(rb' id="([^"]+)"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("siem")
    authority(made)
    return made


@pytest.fixture
def receiver(folder: Path, settings: Settings) -> Iterator[Receiver]:
    with receiving(folder) as found:
        configure(settings, folder, found.port)
        yield found


def configure(settings: Settings, folder: Path, port: int) -> None:
    settings.SIEM_URL, settings.SIEM_CA_FILE = f"syslog+tls://localhost:{port}", str(folder / "ca.pem")
    settings.SIEM_EXCHANGE_S, settings.PUBLIC_URL = 2.0, "https://headend.example"
    pending.switch(is_on=True)


def ids(messages: list[bytes]) -> list[str]:
    return [match[1].decode() for message in messages if (match := ID.search(message))]


def everything() -> None:
    """One event of each source."""
    chain.record(ANN, "token.issue", {"concentrator": "DCU-1"})
    journal.record(SignInOutcome.WRONG_PASSWORD, "nobody", "192.0.2.9")
    now = timezone.now()
    rule = Rule.objects.get(condition=Condition.QUEUE_LAG)
    alert = Alert.objects.create(
        rule=rule, severity=30, subject_kind="fleet", subject="queue", summary="waits", opened_at=now, seen_at=now
    )
    AlertStep.objects.create(alert=alert, at=now, step="opened")
    hour = now.replace(minute=0, second=0, microsecond=0)
    dcu = Concentrator.objects.create(name="DCU-1")
    FailureTally.objects.create(concentrator=dcu, kind="tag_invalid", hour=hour, failures=3)


def due() -> None:
    """Tallies wait for a minute, for more to come."""
    Pending.objects.update(due_at=timezone.now())


def retry() -> None:
    Shipping.objects.update(due_at=None)


def shipped() -> bool:
    retry()
    return shipping.ship_for(1) == 4


def test_nothing_is_noted_where_there_is_no_siem() -> None:
    everything()
    assert not Pending.objects.exists()
    assert shipping.ship_for(1) == 0
    assert neighbours.siem()[0] is True


def test_each_source_is_sent_once_and_removed(receiver: Receiver) -> None:
    everything()
    assert {row.source for row in Pending.objects.all()} == set(Source)
    tasks.ship_security_events()
    assert [one.split("-")[0] for one in ids(receiver.messages)] == ["audit", "sign", "alert"]
    due()
    assert shipping.ship_for(1) == 1
    assert ids(receiver.messages)[-1].startswith("rejected-")
    assert not Pending.objects.exists()
    assert shipping.ship_for(1) == 0
    assert len(receiver.messages) == 4
    assert Shipping.objects.get().sent == 4
    text = b"\n".join(receiver.messages)
    assert b"headend.example ami-headend - audit" in text
    assert b'act="tag_invalid" actor="DCU-1" outcome="rejected" frames="3"' in text
    assert b"192.0.2.9" in text


def test_what_grows_is_sent_again_under_another_id(receiver: Receiver) -> None:
    for _ in range(3):
        journal.record(SignInOutcome.WRONG_PASSWORD, "nobody", "192.0.2.9")
    shipping.ship_for(1)
    journal.record(SignInOutcome.WRONG_PASSWORD, "nobody", "192.0.2.9")
    shipping.ship_for(1)
    assert [one.rsplit("-", 1)[1] for one in ids(receiver.messages)] == ["3", "4"]


def test_a_row_that_changes_while_it_is_sent_stays(receiver: Receiver) -> None:
    journal.record(SignInOutcome.LOCKED_OUT, "nobody", "192.0.2.9")
    now = timezone.now()
    rows = pending.claim(now)
    journal.record(SignInOutcome.LOCKED_OUT, "nobody", "192.0.2.9")
    pending.note_sent(rows, now, timezone.now())
    assert Pending.objects.get().version == 2
    assert shipping.ship_for(1) == 1


def test_what_is_rolled_back_is_not_sent(receiver: Receiver) -> None:
    with transaction.atomic():
        everything()
        transaction.set_rollback(True)
    assert not Pending.objects.exists()


def test_a_worker_whose_lease_is_over_removes_nothing(receiver: Receiver) -> None:
    journal.record(SignInOutcome.LOCKED_OUT, "nobody", "192.0.2.9")
    now = timezone.now()
    later = now + pending.LEASE
    slow, quick = pending.claim(now), pending.claim(later)
    pending.note_sent(quick, later, later)
    assert not Pending.objects.exists()
    journal.record(SignInOutcome.LOCKED_OUT, "nobody", "192.0.2.9")  # the same row once more
    pending.note_sent(slow, now, later)
    assert Pending.objects.get().version == 1
    assert Shipping.objects.get().sent == 1
    assert shipping.ship_for(1) == 1


@pytest.mark.parametrize("manner", [Manner.DIE, Manner.HANG, Manner.REFUSE])
def test_nothing_is_lost_while_the_receiver_dies_hangs_or_refuses(receiver: Receiver, manner: Manner) -> None:
    everything()
    due()
    receiver.manner = manner
    assert shipping.ship_for(1) == 0
    assert Pending.objects.count() == 4
    state = Shipping.objects.get()
    assert state.last_error
    assert state.attempts == 1
    assert state.leased_until is None
    receiver.manner = Manner.READ
    assert shipping.ship_for(1) == 0  # it waits a little first
    retry()
    assert shipping.ship_for(1) == 4
    assert len(set(ids(receiver.connections[-1]))) == 4
    if manner is Manner.DIE:  # it had read them, and did not say so: twice, under the same ids
        assert ids(receiver.connections[0]) == ids(receiver.connections[1])
    assert Shipping.objects.get().last_error == ""


def test_a_receiver_that_is_down_for_long_gets_all_in_order(folder: Path, settings: Settings) -> None:
    port = free_port()
    configure(settings, folder, port)
    for n in range(pending.BATCH + 20):
        Pending.objects.create(source=Source.AUDIT, key=str(10_000 + n))  # their rows are gone: nothing to send
    for n in range(5):
        chain.record(ANN, "token.issue", {"n": n})
    for _ in range(3):
        retry()
        assert shipping.ship_for(0.1) == 0
    assert "refused" in Shipping.objects.get().last_error
    retry()
    with receiving(folder, port) as receiver:
        assert shipping.ship_for(5) == 5
        numbers = [int(one.split("-")[1]) for one in ids(receiver.messages)]
        assert numbers == sorted(numbers)
    assert not Pending.objects.exists()


def test_pauses_grow_to_a_minute(receiver: Receiver) -> None:
    now, waits = timezone.now(), []
    for _ in range(6):
        Shipping.objects.update(leased_until=now + pending.LEASE)
        pending.note_failure("no", now, now)
        state = Shipping.objects.get()
        assert state.due_at is not None
        waits.append((state.due_at - now).total_seconds())
    assert waits == [5, 10, 20, 40, 60, 60]


def test_a_worker_that_died_with_a_batch_leaves_it_to_the_next(receiver: Receiver) -> None:
    everything()
    now = timezone.now()
    claimed = pending.claim(now)
    assert len(claimed) == 3
    assert pending.claim(now + timedelta(seconds=1)) == []
    again = pending.claim(now + pending.LEASE)
    assert {row.key for row in claimed} < {row.key for row in again}  # and the tally, which is due by then


def test_a_worker_that_lost_its_lease_notes_no_failure(receiver: Receiver) -> None:
    everything()
    then = timezone.now()
    now = then + pending.LEASE
    assert pending.claim(then)
    assert pending.claim(now)  # another worker's
    pending.note_failure("too late", then, now)
    state = Shipping.objects.get()
    assert (state.attempts, state.last_error, state.due_at) == (0, "", None)
    assert state.leased_until == now + pending.LEASE
    assert pending.claim(now + timedelta(seconds=1)) == []  # so no third one sends beside it


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_receiver_that_is_not_who_it_should_be_gets_nothing(
    receiver: Receiver, settings: Settings, tmp_path: Path, wrong: str
) -> None:
    if wrong == "authority":
        settings.SIEM_CA_FILE = str(authority(tmp_path))
    else:
        settings.SIEM_URL = settings.SIEM_URL.replace("localhost", "127.0.0.1")
    everything()
    assert shipping.ship_for(1) == 0
    assert receiver.messages == []
    assert "certificate verify failed" in Shipping.objects.get().last_error


def test_the_number_of_statements_does_not_depend_on_the_number_of_events(receiver: Receiver) -> None:
    counted = []
    for n in (2, 40):
        for _ in range(n):
            chain.record(ANN, "token.issue", {})
        with CaptureQueriesContext(connection) as statements:
            assert shipping.ship_for(0) == n
        counted.append(len([one for one in statements if "SAVEPOINT" not in one["sql"]]))
    assert counted[0] == counted[1]


def test_lag_is_seen_by_doctor_alert_and_command(
    receiver: Receiver, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = Rule.objects.get(condition=Condition.SIEM_BEHIND)
    now = timezone.now()
    assert site.siem_behind(rule, [], now).listed == []
    receiver.manner = Manner.REFUSE
    everything()
    shipping.ship_for(1)
    well, found, _ = neighbours.siem()
    assert not well
    assert "4 events wait, 0 sent" in found
    (finding,) = site.siem_behind(rule, [], now + timedelta(minutes=16)).listed
    assert finding.summary.startswith("4 security events wait, since")
    with pytest.raises(CommandError, match="1 attempt failed"):
        call_command("siem", "status")
    receiver.manner = Manner.READ
    retry()
    call_command("siem", "send")
    assert "3 events were sent to" in capsys.readouterr().out
    call_command("siem", "again", number=1)
    assert "1 record of the audit chain" in capsys.readouterr().out
    assert site.siem_behind(rule, [], now).listed == []
    settings.SIEM_URL = ""
    with pytest.raises(CommandError, match="SIEM_URL is not set"):
        call_command("siem", "send")


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("SIEM_FORMAT", "leef", 60),
        ("SIEM_ENTERPRISE", "ours", 61),
        ("SIEM_EXCHANGE_S", 0, 62),
        ("SIEM_URL", "syslog+tcp://siem:601", 63),
        ("SIEM_CA_FILE", "/nowhere/ca.pem", 64),
    ],
)
def test_settings_that_cannot_work_stop_the_start(settings: Settings, name: str, value: Any, number: int) -> None:
    setattr(settings, name, value)
    assert f"ami_headend.E{number:03}" in {message.id for message in check_settings(None)}


@pytest.mark.parametrize("form", ["rfc5424", "cef"])
def test_rsyslog_takes_it(folder: Path, tmp_path: Path, settings: Settings, form: str) -> None:
    if shutil.which("rsyslogd") is None or not _OSSL:
        pytest.skip("the test with rsyslog is left out (Debian, Ubuntu: apt install rsyslog rsyslog-openssl)")
    port, out = free_port(), tmp_path / "out"
    (tmp_path / "rsyslog.conf").write_text(
        f"""global(workDirectory="{tmp_path}" defaultNetstreamDriver="ossl"
                   defaultNetstreamDriverCAFile="{folder}/ca.pem"
                   defaultNetstreamDriverCertFile="{folder}/cert.pem" defaultNetstreamDriverKeyFile="{folder}/key.pem")
        module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
        input(type="imtcp" port="{port}" address="127.0.0.1" supportOctetCountedFraming="on")
        template(name="all" type="string" string="%PRI%|%HOSTNAME%|%APP-NAME%|%MSGID%|%STRUCTURED-DATA%|%msg%\\n")
        action(type="omfile" file="{out}" template="all")
        """
    )
    command = ["rsyslogd", "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as rsyslog:
        try:
            configure(settings, folder, port)
            settings.SIEM_FORMAT, settings.SIEM_EXCHANGE_S = form, 15.0
            everything()
            due()
            wait_for("rsyslog takes them", shipped, 60)
            wait_for("it writes them", lambda: out.exists() and len(out.read_text().splitlines()) == 4, 60)
        finally:
            rsyslog.terminate()
    lines = out.read_text().splitlines()
    assert all("headend.example|ami-headend|" in line for line in lines)
    wanted = "|audit|[event@32473 id=" if form == "rfc5424" else "|audit|-|CEF:0|ami-headend|"
    assert any(wanted in line for line in lines)


_OSSL = any(Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so")) or Path("/usr/lib/rsyslog/lmnsd_ossl.so").exists()
