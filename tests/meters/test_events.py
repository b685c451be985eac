"""Meter events with their meaning over REST, and their acknowledgement: filters, states, audit."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.code_models import EventAcknowledgement, SiteCode
from meters.codes.severity import Severity
from meters.models import Meter, MeterEvent, Register
from meters.readings import event_acknowledgement, event_queries
from meters.readings.event_acknowledgement import AcknowledgeError
from meters.readings.event_queries import EventSelection
from meters.readings.obis import COMMAND_DONE, FRAUD_LOG, STANDARD_LOG
from meters.registry import site_codes
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
START = datetime(2026, 11, 1, tzinfo=UTC)
PERIOD = {"from": START.isoformat(), "to": (START + timedelta(days=1)).isoformat()}
ACTOR = Actor("ann", "here")


@pytest.fixture
def meter() -> Meter:
    """A meter with events of each severity, and the answer to a command."""
    meter: Meter = MeterFactory.create(serial_number="S1")
    said = [
        (STANDARD_LOG, 2),
        (STANDARD_LOG, 7),
        (FRAUD_LOG, 44),
        (FRAUD_LOG, 7777),
        (FRAUD_LOG, 45),
        (COMMAND_DONE, 12),
    ]
    registers = {row.obis_code: row for row in Register.objects.all()}
    MeterEvent.objects.bulk_create(
        MeterEvent(
            meter=meter,
            register=registers[log],
            captured_at=START + timedelta(minutes=n),
            value=code,
            uplink_id=1,
            received_at=START,
        )
        for n, (log, code) in enumerate(said)
    )
    return meter


@pytest.fixture
def reader() -> Client:
    user = User.objects.create_user("reader")
    user.user_permissions.set(Permission.objects.filter(codename="view_meterevent"))
    client = Client()
    client.force_login(user)
    return client


def names(client: Client, **asked: Any) -> list[str]:
    answer = client.get("/api/v1/events", PERIOD | asked)
    assert answer.status_code == 200, answer.content
    return [row["name"] for row in answer.json()["results"]]


@pytest.mark.usefixtures("meter")
def test_each_event_says_what_it_means(reader: Client) -> None:
    rows = reader.get("/api/v1/events", PERIOD).json()["results"]
    assert [(row["name"], row["severity"], row["type"]) for row in rows] == [
        ("power up", "info", "3.26.9.216"),
        ("battery must be replaced", "warning", "3.2.0.150"),
        ("meter cover opened", "critical", "3.33.1.44"),
        ("code 7777", "critical", "3.0.0.0"),
        ("meter cover closed", "info", "3.33.1.216"),
        ("command 12 done", "info", "3.0.0.0"),
    ]
    assert rows[0]["serial_number"] == "S1"
    answer: Any = reader.get("/api/v1/events", PERIOD | {"format": "csv"})
    text = b"".join(answer.streaming_content).decode()
    assert '"battery must be replaced","warning"' in text.replace("'", "")


@pytest.mark.usefixtures("meter")
def test_filters(reader: Client) -> None:
    assert names(reader, severity="critical") == ["meter cover opened", "code 7777"]
    assert names(reader, severity="warning") == ["battery must be replaced", "meter cover opened", "code 7777"]
    assert len(names(reader, severity="info")) == 6
    assert names(reader, code=[f"{FRAUD_LOG}/45", f"{STANDARD_LOG}/7"]) == [
        "battery must be replaced",
        "meter cover closed",
    ]
    for asked in ({"severity": "bad"}, {"code": "1"}, {"is_acknowledged": "maybe"}):
        assert reader.get("/api/v1/events", PERIOD | asked).status_code == 400


@pytest.mark.usefixtures("meter")
def test_the_site_says_what_is_severe(reader: Client) -> None:
    value = {"name": "lid", "severity": "info", "type": "3.0.0.1", "outage": ""}
    SiteCode.objects.create(table="events", key=f"{FRAUD_LOG}/44", value=value, changed_at=START, changed_by="root")
    assert names(reader, severity="critical") == ["code 7777"]
    assert names(reader, code=f"{FRAUD_LOG}/44") == ["lid"]


@pytest.mark.usefixtures("meter")
def test_a_page_costs_the_same_for_any_number(
    reader: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    selection = EventSelection(START, START + timedelta(days=1), severity=Severity.WARNING)
    for limit in (1, 100):
        with django_assert_num_queries(3):  # the time-out and the codes of the site among them
            event_queries.events(selection, limit)


@pytest.mark.usefixtures("meter", "master_key_file")
class TestAcknowledgement:
    def test_by_number(self, reader: Client) -> None:
        ids = list(MeterEvent.objects.filter(register__obis_code=FRAUD_LOG).values_list("pk", flat=True))
        done = event_acknowledgement.acknowledge(ids[:2], ACTOR, " seal was opened by us ", START)
        assert (done.events, done.is_whole) == (2, True)
        row = EventAcknowledgement.objects.get()
        assert (row.by, row.note, row.events) == ("ann", "seal was opened by us", 2)
        assert AuditRecord.objects.get().act == "events.acknowledge"
        assert names(reader, is_acknowledged="true") == ["meter cover opened", "code 7777"]
        assert len(names(reader, is_acknowledged="false")) == 4
        again = event_acknowledgement.acknowledge(ids, ACTOR, "the rest", START)
        assert again.events == 1

    def test_all_that_match(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_acknowledgement, "AT_ONCE", 2)
        selection = EventSelection(START, START + timedelta(days=1), severity=Severity.WARNING)
        codes = site_codes.events()
        counts = [event_acknowledgement.acknowledge_all(selection, codes, ACTOR, "x", START) for _ in range(2)]
        assert [(one.events, one.is_whole) for one in counts] == [(2, False), (1, True)]
        with pytest.raises(AcknowledgeError, match="none of these events is open"):
            event_acknowledgement.acknowledge_all(selection, codes, ACTOR, "x", START)

    @pytest.mark.parametrize(("note", "said"), [(" ", "say in a note"), ("x" * 1001, "at most 1,000 characters")])
    def test_a_note_is_needed(self, note: str, said: str) -> None:
        with pytest.raises(AcknowledgeError, match=said):
            event_acknowledgement.acknowledge([1], ACTOR, note, START)
        assert not EventAcknowledgement.objects.exists()
