"""Messages of IEC 61968-9 with rows of the feed and of a period: over REST, by the command, in a profile."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import Client

from ami_headend.signin import roles
from concentrators.feed import eras, subscriptions
from concentrators.feed.cursor import Cursor
from concentrators.feed.cursor import Place as At
from concentrators.feed.rows import Resource
from concentrators.models import Concentrator, FeedLot, FeedSubscription
from keyvault.audit import chain
from keyvault.audit.chain import Actor, AuditError
from keyvault.models import AuditRecord
from meters.readings.obis import FRAUD_LOG
from tests.builders import senml_payload
from tests.concentrators import fleet
from tests.concentrators.feed.documents import MESSAGE_2009, MESSAGE_2011, texts, valid
from tests.concentrators.feed.numbering import numbered
from tests.concentrators.fleet import NOW, START, START_S
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.usefixtures("own_database")
OF_READINGS, OF_EVENTS = "/api/v1/feed/readings", "/api/v1/feed/events"
PERIOD = {"from": START.isoformat(), "to": (START + timedelta(days=1)).isoformat()}
ACTOR = Actor("ann", "here")


@pytest.fixture
def client() -> Client:
    user, _ = User.objects.get_or_create(username="billing")
    user.groups.set(Group.objects.filter(name=roles.OPERATOR))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


def end(resource: Resource = Resource.READINGS) -> str:
    numbered()
    state = eras.state()
    return str(Cursor(resource, state.era, At(state.last + 1, 0)))


def told(concentrator: Concentrator, intervals: int = 2) -> fleet.Device:
    """Have a meter say something; it is in the feed."""
    (device,) = fleet.commission(1, concentrator)
    event = device.seal(senml_payload({FRAUD_LOG: 44}, START_S, unit="count"))
    fleet.verified(concentrator, [*(device.frame(n, 100 + n) for n in range(intervals)), event])
    numbered()
    return device


def subscription(name: str, **profile: Any) -> str:
    cursor = end()
    subscriptions.keep(name, cursor, ACTOR, NOW)
    subscriptions.set_profile(name, profile, ACTOR)
    return cursor


def test_what_follows_a_cursor_is_one_message_and_then_none(client: Client, concentrator: Concentrator) -> None:
    before, events = end(), end(Resource.EVENTS)
    device = told(concentrator)
    answer = client.get(OF_READINGS, {"format": "cim", "cursor": before})
    octets = answer.getvalue()
    message = valid(octets, MESSAGE_2011)
    assert answer["Content-Type"] == "application/xml; charset=utf-8"
    assert texts(message, "//r:Meter/r:mRID") == [device.title.hex()]
    assert sorted(texts(message, "//r:IntervalReadings/r:value")) == ["100", "101"]
    assert answer["Feed-Rows"] == "4"
    again = client.get(OF_READINGS, {"format": "cim", "cursor": before})
    assert again.getvalue() == octets
    nothing = client.get(OF_READINGS, {"format": "cim", "cursor": answer["Feed-Cursor"]})
    assert (nothing.status_code, nothing["Feed-Cursor"]) == (204, answer["Feed-Cursor"])
    message = valid(client.get(OF_EVENTS, {"format": "cim", "cursor": events}).getvalue(), MESSAGE_2011)
    assert texts(message, "//e:EndDeviceEventType/@ref") == ["3.33.1.44"]


def test_the_profile_of_a_subscription(client: Client, concentrator: Concentrator) -> None:
    cursor = subscription("mdm", year=2009, readings_per_message=3)
    told(concentrator)
    found = []
    for _ in range(2):
        answer = client.get(OF_READINGS, {"format": "cim", "cursor": cursor, "subscription": "mdm"})
        valid(answer.getvalue(), MESSAGE_2009)
        cursor = answer["Feed-Cursor"]
        found.append(int(answer["Feed-Rows"]))
    assert found == [3, 1]


def test_what_was_told_before_is_in_a_message_of_its_own(client: Client, concentrator: Concentrator) -> None:
    cursor = end()
    told(concentrator)
    told(concentrator)
    last = FeedLot.objects.order_by("-position")[0]
    FeedLot.objects.filter(pk=last.pk).update(change="relabelled")
    first = client.get(OF_READINGS, {"format": "cim", "cursor": cursor})
    second = client.get(OF_READINGS, {"format": "cim", "cursor": first["Feed-Cursor"]})
    verbs = [texts(valid(one.getvalue(), MESSAGE_2011), "//m:Verb") for one in (first, second)]
    assert verbs == [["created"], ["changed"]]


def test_a_period_goes_on_by_links(client: Client, concentrator: Concentrator) -> None:
    subscription("small", readings_per_message=3)
    device = told(concentrator, 4)
    asked = {**PERIOD, "meter": device.title.hex(), "subscription": "small"}
    address, values = "/api/v1/messages/readings", []
    answer = client.get(address, asked)
    while True:
        assert answer.status_code == 200, answer.content
        message = valid(answer.content, MESSAGE_2011)
        values += texts(message, "//r:IntervalReadings/r:value")
        assert texts(message, "//m:Property") == []
        if "Link" not in answer:
            break
        answer = client.get(answer["Link"].split(">")[0].removeprefix("<"))
    assert sorted(values) == ["100", "101", "102", "103"]
    message = valid(client.get("/api/v1/messages/events", {**PERIOD, "severity": "critical"}).content, MESSAGE_2011)
    assert set(texts(message, "//e:severity")) == {"critical"}


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        (OF_READINGS, {"cursor": "nonsense"}, 400),
        (OF_READINGS, {"subscription": "nobody"}, 400),
        (OF_READINGS, {"format": "cim", "limit": "0"}, 400),
        ("/api/v1/messages/readings", {**PERIOD, "subscription": "nobody"}, 400),
        ("/api/v1/messages/events", {**PERIOD, "severity": "bad"}, 400),
    ],
)
def test_what_is_wrong_is_named(client: Client, path: str, asked: dict[str, str], status: int) -> None:
    answer = client.get(path, asked)
    assert answer.status_code == status
    assert answer.json()["status"] == status


def test_a_profile_over_rest(client: Client) -> None:
    address = "/api/v1/feed/subscriptions/rest"
    body = {"cursor": end(), "profile": {"energy": "kWh"}}
    stored = client.put(address, body, content_type="application/json").json()
    assert (stored["profile"]["energy"], stored["profile"]["year"]) == ("kWh", 2011)
    stored = client.put(address, {"cursor": end()}, content_type="application/json").json()
    assert stored["profile"]["energy"] == "kWh"
    wrong = client.put(address, {**body, "profile": {"year": 1}}, content_type="application/json")
    assert (wrong.status_code, "year is one of 2011, 2009" in wrong.content.decode()) == (400, True)


class TestCommand:
    def test_files_of_a_period_and_of_a_subscription(self, concentrator: Concentrator, tmp_path: Path) -> None:
        subscription("files", readings_per_message=3)
        serial = told(concentrator).meter.serial_number
        words = ["--from", PERIOD["from"], "--to", PERIOD["to"], "--meter", serial, "--subscription", "files"]
        call_command("messages", "readings", *words, "--folder", str(tmp_path / "period"))
        call_command("messages", "events", *words, "--folder", str(tmp_path / "period"))
        names = sorted(file.name for file in (tmp_path / "period").iterdir())
        assert names == ["events-000001.xml", "readings-000001.xml", "readings-000002.xml"]
        call_command("messages", "readings", "--subscription", "files", "--folder", str(tmp_path / "new"))
        found = [valid(file.read_bytes(), MESSAGE_2011) for file in sorted((tmp_path / "new").iterdir())]
        assert sum(len(texts(one, "//r:value")) for one in found) == 4
        with pytest.raises(CommandError, match="cannot be written: File exists"):
            call_command("messages", "readings", "--subscription", "files", "--folder", str(tmp_path / "new"))

    def test_a_profile_is_shown_and_changed(self) -> None:
        subscription("profiled")
        call_command("messages", "profile", "profiled", "year=2009", "readings_per_message=5")
        assert FeedSubscription.objects.get(name="profiled").profile["readings_per_message"] == 5
        for words, said in (
            (["profile", "nobody"], "there is no subscription"),
            (["profile", "profiled", "year"], "not of the form"),
            (["profile", "profiled", "year=2010"], "year is one of"),
        ):
            with pytest.raises(CommandError, match=said):
                call_command("messages", *words)

    def test_what_is_refused_makes_no_folder_and_is_no_export(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subscription("refused")
        exports = AuditRecord.objects.filter(act="messages.export")
        before = exports.count()
        eve, day = "2026-01-01", "2026-01-02"
        folder, there = tmp_path / "new" / "out", tmp_path / "there"
        there.mkdir()
        (there / "readings-000001.xml").touch()
        for words, said in (
            (["readings"], "Say which"),
            (["readings", "--from", eve], "both --from and --to"),
            (["readings", "--from", day, "--to", eve], "--from is not before --to"),
            (["readings", "--from", eve, "--to", day, "--meter", "nothing"], "meter"),
            (["readings", "--from", eve, "--to", day, "--subscription", "nobody"], "there is no subscription"),
            (["events", "--subscription", "nobody"], "there is no subscription"),
            (["events", "--subscription", "refused"], "follows readings"),
            (["readings", "--from", eve, "--to", day, "--folder", str(there)], "cannot be written: File exists"),
            (["readings", "--from", eve, "--to", day, "--folder", str(there / "readings-000001.xml")], "File exists"),
        ):
            with pytest.raises(CommandError, match=said):
                call_command("messages", *words, *([] if "--folder" in words else ["--folder", str(folder)]))
        FeedSubscription.objects.update(position=10**6)
        with pytest.raises(CommandError):
            call_command("messages", "readings", "--subscription", "refused", "--folder", str(folder))
        assert exports.count() == before

        def unaudited(*args: Any) -> None:
            raise AuditError("the chain is broken")

        monkeypatch.setattr(chain, "record", unaudited)
        with pytest.raises(CommandError, match="the chain is broken"):
            call_command("messages", "readings", "--from", eve, "--to", day, "--folder", str(folder))
        assert not folder.exists()
        assert [file.name for file in there.iterdir()] == ["readings-000001.xml"]
