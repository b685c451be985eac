"""Green Button and the Nordic document of a place over REST: what is there, what is missing, across an exchange."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from concentrators.feed import place_documents
from concentrators.feed.place_series import PeriodError
from keyvault.models import AuditRecord
from keyvault.schemes.table import SCHEMES
from meters.code_models import SiteCode
from meters.models import EarlierLength, HouseholdAccess, Meter, Place, Reading, Register
from meters.registry.lifecycle import exchange, install
from tests.concentrators.feed.documents import GREEN_BUTTON, NORDIC, texts, valid
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PARTIES = {"sender": "5799999933318", "receiver": "5790001330552"}


@pytest.fixture
def reader() -> Client:
    user = User.objects.create_user("reader")
    names = ["view_place", "view_reading"]
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="meters", codename__in=names))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def place() -> Place:
    return Place.objects.create(name="Mill Lane 4")


def store(meter: Meter, code: str, values: dict[int, int], minutes: int = 30, scheme: int | None = None) -> None:
    """Store values by the number of their interval."""
    register = Register.objects.get(obis_code=code)
    Reading.objects.bulk_create(
        Reading(
            captured_at=START + n * timedelta(minutes=minutes),
            meter=meter,
            register=register,
            value=value,
            uplink_id=1,
            interval_minutes=minutes,
            scheme=scheme,
        )
        for n, value in values.items()
    )


def ask(client: Client, place: Place, kind: str, **asked: Any) -> Any:
    period = {"from": START.isoformat(), "to": (START + 2 * HOUR).isoformat()}
    return client.get(f"/api/v1/places/{place.pk}/{kind}", period | asked)


def green(client: Client, place: Place, **asked: Any) -> Any:
    return valid(b"".join(ask(client, place, "green-button", **asked).streaming_content), GREEN_BUTTON)


def nordic(client: Client, place: Place, **asked: Any) -> Any:
    answer = ask(client, place, "market-document", **PARTIES, **asked)
    return valid(b"".join(answer.streaming_content), NORDIC)


def test_what_is_there_and_what_is_missing(reader: Client, place: Place) -> None:
    meter = MeterFactory.create(commissioned_at=START)
    install(meter, place, START)
    store(meter, "1-0:1.29.0", {0: 10, 1: 11, 3: 13})
    store(meter, "1-0:2.29.0", {2: 5})
    feed = green(reader, place)
    assert texts(feed, "//espi:value") == ["10", "11", "13", "5"]
    assert texts(feed, "//espi:intervalLength") == ["1800", "1800"]
    document = nordic(reader, place, register="1-0:1.29.0")
    assert texts(document, "//cim:quantity") == ["0.010", "0.011", "0.013"]
    assert texts(document, "//cim:quality") == ["A04", "A04", "A02", "A04"]
    assert texts(document, "//cim:marketEvaluationPoint.mRID") == ["Mill Lane 4"]
    assert HouseholdAccess.objects.filter(place=place, account="reader").exists()


def test_the_values_of_an_exchange_are_added_and_its_worst_protection_is_said(reader: Client, place: Place) -> None:
    at = START + HOUR + timedelta(minutes=10)
    old, new = MeterFactory.create(commissioned_at=START), MeterFactory.create(commissioned_at=START)
    install(old, place, START)
    exchange(place, old, new, at)
    store(old, "1-0:1.29.0", {0: 10, 1: 11, 2: 3}, scheme=SCHEMES["dlms without tag"].number)
    store(new, "1-0:1.29.0", {2: 4, 3: 13})
    feed = green(reader, place)
    assert texts(feed, "//espi:value") == ["10", "11", "7", "13"]
    assert texts(feed, "//espi:IntervalReading[espi:ReadingQuality]/espi:value") == ["10", "11", "7"]


def test_another_length_is_another_series(reader: Client, place: Place) -> None:
    meter = MeterFactory.create(commissioned_at=START, interval_minutes=15)
    EarlierLength.objects.create(meter=meter, interval_minutes=30, valid_to=START + HOUR)
    install(meter, place, START)
    store(meter, "1-0:1.29.0", {0: 10, 1: 11})
    store(meter, "1-0:1.29.0", {4: 1, 5: 2, 6: 3, 7: 4}, minutes=15)
    document = nordic(reader, place)
    assert sorted(zip(texts(document, "//cim:start"), texts(document, "//cim:resolution"), strict=True)) == [
        ("2026-11-01T00:00Z", "PT30M"),
        ("2026-11-01T01:00Z", "PT15M"),
    ]


def test_the_queries_do_not_grow_with_the_period(
    reader: Client, place: Place, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    meter = MeterFactory.create(commissioned_at=START)
    install(meter, place, START)
    store(meter, "1-0:1.29.0", dict.fromkeys(range(400), 7))
    green(reader, place)
    with django_assert_num_queries(20):
        green(reader, place)
    with django_assert_num_queries(20):
        feed = green(reader, place, to=(START + 200 * HOUR).isoformat())
    assert len(texts(feed, "//espi:value")) == 400


def test_the_site_has_its_own_codes(reader: Client, place: Place) -> None:
    meter = MeterFactory.create(commissioned_at=START)
    install(meter, place, START)
    store(meter, "1-0:1.29.0", {0: 10})
    own = {"1-0:1.29.0": "0.0.mp.4.4.1.12.0.0.0.0.0.0.0.0.0.72.0"}
    SiteCode.objects.bulk_create(
        SiteCode(table="reading-types", key=key, value={"reading_type": text}, changed_at=START, changed_by="root")
        for key, text in own.items()
    )
    assert texts(green(reader, place), "//espi:flowDirection") == ["4"]


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("green-button", {"register": "1-0:1.8.0"}, "there is no interval register '1-0:1.8.0'"),
        ("green-button", {"from": "2020-01-01T00:00Z"}, "at most 1,100 days"),
        ("green-button", {"sender": "1"}, "no such parameter"),
        ("market-document", {"sender": "1"}, "This field is required"),
        ("market-document", {**PARTIES, "sender_role": "XYZ"}, "not a valid choice"),
        ("market-document", {**PARTIES, "sender": "1" * 17}, "no more than 16"),
    ],
)
def test_what_is_wrong_is_named(reader: Client, place: Place, kind: str, asked: dict[str, str], said: str) -> None:
    answer = ask(reader, place, kind, **asked)
    assert answer.status_code == 400
    assert said in answer.content.decode()


def test_a_long_name_needs_a_metering_point(reader: Client) -> None:
    place = Place.objects.create(name="x" * 36)
    assert ask(reader, place, "market-document", **PARTIES).status_code == 400
    found = nordic(reader, place, metering_point="579999993331812345")
    assert texts(found, "//cim:Series") == []
    assert reader.get("/api/v1/places/999999/green-button").status_code == 404


def test_who_may_not_see_places_sees_no_name(place: Place) -> None:
    user = User.objects.create_user("half")
    user.user_permissions.set(Permission.objects.filter(codename="view_reading"))
    client = Client()
    client.force_login(user)
    assert texts(green(client, place), "//atom:title")[0] == f"Place {place.pk}"
    assert "say which" in ask(client, place, "market-document", **PARTIES).content.decode()
    user.user_permissions.clear()
    assert client.get(f"/api/v1/places/{place.pk}/green-button").status_code == 403


@pytest.mark.usefixtures("master_key_file")
class TestCommand:
    period = ("--from", START.isoformat(), "--to", (START + 2 * HOUR).isoformat())

    def test_both_documents_are_written(self, place: Place, tmp_path: Path) -> None:
        meter = MeterFactory.create(commissioned_at=START)
        install(meter, place, START)
        store(meter, "1-0:1.29.0", {0: 10})
        parties = [word for name, value in PARTIES.items() for word in (f"--{name}", value)]
        for kind, more, schema in (("green-button", [], GREEN_BUTTON), ("market-document", parties, NORDIC)):
            file = tmp_path / kind
            words = [kind, place.name, *self.period, "--register", "1-0:1.29.0", "--output", str(file), *more]
            call_command("place_document", *words)
            valid(file.read_bytes(), schema)
            with pytest.raises(CommandError, match="cannot be written: File exists"):
                call_command("place_document", *words)
            with pytest.raises(CommandError, match="cannot be written: No such file"):
                call_command("place_document", *words, "--output", str(tmp_path / "nowhere" / kind))
        assert [*AuditRecord.objects.values_list("act", flat=True)] == ["place.export"] * 2

    def test_what_fails_half_way_leaves_no_file(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: Any) -> Iterator[bytes]:
            yield b"<feed>"
            raise PeriodError("too much")

        monkeypatch.setattr(place_documents, "green_button_feed", broken)
        with pytest.raises(CommandError, match="too much"):
            call_command("place_document", "green-button", place.name, *self.period, "--output", str(tmp_path / "one"))
        assert [*tmp_path.iterdir()] == []

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["green-button", "nowhere", *period], "There is no place nowhere"),
            (["green-button", "Mill Lane 4", *period, "--register", "1-0:1.8.0"], "no interval register 1-0:1.8.0"),
            (["green-button", "Mill Lane 4", "--from", "2026-01-01", "--to", "2025-01-01"], "not before --to"),
            (["green-button", "Mill Lane 4", "--from", "2006-01-01", "--to", "2025-01-01"], "at most 1,100 days"),
            (
                ["market-document", "Mill Lane 4", *period, "--sender", "1" * 17, "--receiver", "1"],
                "1 to 16 char",
            ),
        ],
    )
    @pytest.mark.usefixtures("place")
    def test_what_is_wrong_is_named(self, words: list[str], said: str) -> None:
        with pytest.raises(CommandError, match=said):
            call_command("place_document", *words)
