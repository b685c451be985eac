"""The feed over HTTP: formats, cursors, subscriptions, and what is said when a cursor cannot be followed."""

import csv
import io
import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from ami_headend.api_tokens import tokens
from ami_headend.signin import roles
from concentrators.feed import eras, lots, pages, subscriptions, tables
from concentrators.feed.cursor import Cursor
from concentrators.feed.cursor import Place as At
from concentrators.feed.rows import Resource
from concentrators.fleet import groups
from concentrators.fleet.groups import Members
from concentrators.models import Concentrator, FeedLot, FeedSubscription
from keyvault.audit.chain import Actor, AuditError
from keyvault.models import AuditRecord
from meters.models import HouseholdAccess
from meters.registry.groups import GroupName
from tests.concentrators import fleet
from tests.concentrators.feed.numbering import numbered
from tests.concentrators.fleet import START
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.usefixtures("own_database")
READINGS = "/api/v1/feed/readings"
ANN = Actor("ann", "")


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def client() -> Client:
    user, _ = User.objects.get_or_create(username="billing")
    user.groups.set(Group.objects.filter(name=roles.OPERATOR))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def at_end(client: Client) -> str:
    numbered()
    return str(Cursor(Resource.READINGS, eras.state().era, At(eras.state().last + 1, 0)))


def told(concentrator: Concentrator, frames: int = 2) -> None:
    (device,) = fleet.commission(1, concentrator)
    fleet.verified(concentrator, [device.frame(n, 100 + n) for n in range(frames)])
    numbered()


def restored() -> None:
    with transaction.atomic():
        eras.begin(timezone.now())


def get(client: Client, path: str = READINGS, **query: Any) -> Any:
    return client.get(path, query)


def content(answer: Any) -> bytes:
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content)


def lines(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content(answer).splitlines()]


def test_every_format_says_the_same(client: Client, concentrator: Concentrator, at_end: str) -> None:
    told(concentrator)
    plain = lines(get(client, cursor=at_end))
    assert len(plain) == 4
    answer = get(client, cursor=at_end, format="csv")
    assert answer["Content-Type"].startswith("text/csv")
    as_csv = list(csv.DictReader(io.StringIO(content(answer).decode())))
    table = pq.read_table(io.BytesIO(content(get(client, cursor=at_end, format="parquet"))))
    assert table.schema.equals(tables.SCHEMAS[Resource.READINGS])
    for one, two, three in zip(plain, as_csv, table.to_pylist(), strict=True):
        assert list(one) == list(two) == list(three)
        assert one["quality"] == two["quality"].split() == three["quality"].split() == ["authentic"]
        assert one["value"] == two["value"] == three["value"]
        assert Decimal(one["value"]) >= 100
        for at in ("captured_at", "received_at", "verified_at", "interval_end"):
            of_csv = datetime.fromisoformat(two[at]) if two[at] else None
            assert (one[at] and datetime.fromisoformat(one[at])) == of_csv == three[at]
        assert str(one["position"]) == two["position"]
    assert plain[0]["captured_at"] == START.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_answer_says_where_to_go_on(client: Client, concentrator: Concentrator, at_end: str) -> None:
    told(concentrator)
    answer = get(client, cursor=at_end, limit=3)
    assert len(lines(answer)) == 3 == int(answer["Feed-Rows"])
    assert answer["Feed-At-End"] == "false"
    assert "Retry-After" not in answer
    rest = get(client, cursor=answer["Feed-Cursor"])
    assert len(lines(rest)) == 1
    assert (rest["Feed-At-End"], rest["Retry-After"]) == ("true", "10")
    empty = get(client, cursor=rest["Feed-Cursor"])
    assert content(empty) == b""
    assert empty["Feed-Cursor"] == rest["Feed-Cursor"]
    assert HouseholdAccess.objects.filter(account="billing", door="feed-readings").exists()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_empty_page_is_a_whole_file(client: Client, at_end: str, form: str) -> None:
    octets = content(get(client, cursor=at_end, format=form))
    if form == "csv":
        assert octets.decode().startswith('"position","row","change"')
    else:
        assert pq.read_table(io.BytesIO(octets)).num_rows == 0


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ({"cursor": "nonsense"}, "give the one that came with the last page"),
        ({"cursor": ""}, "empty"),
        ({"limit": "0"}, "greater than or equal to 1"),
        ({"limit": "1000001"}, "less than or equal to 1000000"),
        ({"format": "xml"}, "'xml' is not one of ndjson, csv, parquet"),
        ({"curser": "x"}, "no such parameter"),
    ],
)
def test_bad_questions_are_told_what_is_wrong(client: Client, query: dict[str, str], fault: str) -> None:
    answer = get(client, **query)
    assert answer.status_code == 400
    assert fault in answer.json()["detail"]


def test_a_cursor_of_the_other_resource_is_refused(client: Client, at_end: str) -> None:
    answer = get(client, "/api/v1/feed/events", cursor=at_end)
    assert answer.status_code == 400
    assert "of the feed of readings, not of events" in answer.json()["detail"]


def test_rows_that_are_no_longer_kept_are_not_skipped(client: Client, concentrator: Concentrator, at_end: str) -> None:
    told(concentrator)
    told(concentrator, 1)
    FeedLot.objects.filter(position=eras.state().last).update(stored_at=timezone.now() + timedelta(days=1))
    assert lots.empty(timezone.now() + timedelta(hours=1)) >= 1
    answer = get(client, cursor=at_end)
    assert (answer.status_code, answer["Content-Type"]) == (410, "application/problem+json")
    problem = answer.json()
    assert problem["discard_after"] is None
    assert problem["read_again"] == {
        "from": START.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "to": (START + timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert "at /api/v1/readings, then go on" in problem["detail"]
    assert len(lines(get(client, cursor=problem["resume"]))) == 2
    assert [row["position"] for row in lines(get(client, limit=1))] == [eras.state().first_kept]
    lots.delete_old(timezone.now() + timedelta(hours=1))
    assert get(client, cursor=at_end).json()["read_again"] == {"from": None, "to": None}


@pytest.mark.parametrize("are_deleted", [False, True])
def test_rows_that_go_while_they_are_asked_for_are_gone(
    client: Client, concentrator: Concentrator, at_end: str, monkeypatch: pytest.MonkeyPatch, are_deleted: bool
) -> None:
    told(concentrator)
    plan = pages.plan

    def then_retention(*asked: Any) -> Any:
        planned, later = plan(*asked), timezone.now() + timedelta(days=2)
        lots.empty(later)
        if are_deleted:
            lots.delete_old(later)
        return planned

    monkeypatch.setattr(pages, "plan", then_retention)
    answer = get(client, cursor=at_end)
    assert answer.status_code == 410, answer.content
    assert ("from" in answer.json()["read_again"], answer.json()["discard_after"]) == (True, None)
    assert lines(get(client, cursor=answer.json()["resume"])) == []


def test_a_restore_is_told_with_what_to_discard(client: Client, concentrator: Concentrator, at_end: str) -> None:
    told(concentrator)
    shared = eras.state().last
    before, ahead = at_end, str(Cursor(Resource.READINGS, eras.state().era, At(shared + 5, 3)))
    restored()
    for cursor, discard in ((before, None), (ahead, shared)):
        answer = get(client, cursor=cursor)
        assert answer.status_code == 410
        problem = answer.json()
        assert (problem["discard_after"], problem["era"]) == (discard, eras.state().era)
        assert "restored from a backup" in problem["detail"]
        assert len(lines(get(client, cursor=problem["resume"]))) == (4 if discard is None else 0)


def test_a_subscription_says_how_far_behind_it_is(client: Client, concentrator: Concentrator, at_end: str) -> None:
    told(concentrator, 3)
    address = "/api/v1/feed/subscriptions/billing"
    answer = client.put(address, {"cursor": at_end}, content_type="application/json")
    assert answer.status_code == 200, answer.content
    shown = answer.json()
    assert (shown["resource"], shown["cursor"], shown["account"]) == ("readings", at_end, "billing")
    assert (shown["positions"], shown["rows"], shown["is_gone"]) == (1, 6, False)
    assert 0 <= shown["lag_s"] < 60
    page = get(client, cursor=at_end, limit=4)
    client.put(address, {"cursor": page["Feed-Cursor"]}, content_type="application/json")
    assert client.get(address).json()["rows"] == 2
    end = get(client, cursor=page["Feed-Cursor"])["Feed-Cursor"]
    client.put(address, {"cursor": end}, content_type="application/json")
    assert {name: client.get(address).json()[name] for name in ("positions", "rows", "lag_s")} == {
        "positions": 0,
        "rows": 0,
        "lag_s": 0,
    }
    assert [one["name"] for one in client.get("/api/v1/feed/subscriptions").json()] == ["billing"]
    restored()
    assert client.get(address).json()["is_gone"] is True
    assert client.delete(address).status_code == 204
    assert client.delete(address).status_code == client.get(address).status_code == 404
    acts = AuditRecord.objects.order_by("number").values_list("act", flat=True)
    assert list(acts)[-2:] == ["feed.subscribe", "feed.unsubscribe"]


def test_a_token_moves_and_deletes_its_own_subscription_alone(client: Client, at_end: str) -> None:
    address, now = "/api/v1/feed/subscriptions/billing", timezone.now()
    mine, other = (tokens.make(ANN, name, ["feed"], 1, now) for name in ("mine", "other"))
    body = {"cursor": at_end}

    def asked(secret: str, method: str = "put") -> int:
        headers = {"authorization": f"Bearer {secret}"}
        answer = getattr(Client(headers=headers), method)(address, body, content_type="application/json")
        return int(answer.status_code)

    assert asked(mine.secret) == 200
    assert [asked(other.secret), asked(other.secret, "delete")] == [403, 403]
    assert client.put(address, body, content_type="application/json").status_code == 200  # a person moves it
    assert asked(other.secret) == 403
    rotated = tokens.rotate(ANN, mine.token.pk, 1, timedelta(), now)
    assert asked(rotated.secret) == 200  # and it stays the token's, also after a rotation
    FeedSubscription.objects.update(owner="")  # as of a release before
    assert [asked(other.secret), asked(rotated.secret)] == [403, 200]
    assert FeedSubscription.objects.get().owner == "token:mine"
    assert asked(rotated.secret, "delete") == 204
    assert client.put(address, body, content_type="application/json").status_code == 200
    assert [asked(rotated.secret), client.delete(address).status_code] == [403, 204]


def test_a_profile_that_is_not_stored_moves_no_cursor(
    client: Client, at_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AuditError("the audit key cannot be used")

    monkeypatch.setattr(subscriptions, "set_profile", fail)
    body = {"cursor": at_end, "profile": {}}
    answer = client.put("/api/v1/feed/subscriptions/billing", body, content_type="application/json")
    assert answer.status_code == 503
    assert not FeedSubscription.objects.exists()


def test_a_subscription_follows_one_resource(client: Client, at_end: str) -> None:
    address = "/api/v1/feed/subscriptions/one"
    client.put(address, {"cursor": at_end}, content_type="application/json")
    events = str(Cursor(Resource.EVENTS, eras.state().era, At(1, 0)))
    answer = client.put(address, {"cursor": events}, content_type="application/json")
    assert answer.status_code == 400
    assert "follows readings" in answer.json()["detail"]
    answer = client.put(address, {"cursor": "x"}, content_type="application/json")
    assert answer.status_code == 400


def test_places_are_shown_to_whoever_may_see_them(concentrator: Concentrator, at_end: str) -> None:
    told(concentrator)
    planned = pages.plan(Resource.READINGS, at_end, 10)
    (batch,) = pages.batches(planned, shows_places=False)
    assert batch.column("usage_point").null_count == 4


def test_a_page_can_be_of_the_meters_of_groups_alone(client: Client, concentrator: Concentrator, at_end: str) -> None:
    inside, outside = fleet.commission(2, concentrator)
    group = groups.make(GroupName("district", "North"), Actor("tester", "test"))
    groups.put(group, Members(meters=[inside.meter.pk]), Actor("tester", "test"))
    for number, devices in enumerate(([inside, outside], [outside])):
        fleet.verified(concentrator, [device.frame(number) for device in devices])
    numbered()
    answer = get(client, cursor=at_end, group="district:North")
    rows = lines(answer)
    assert {row["system_title"] for row in rows} == {inside.title.hex()}
    assert int(answer["Feed-Rows"]) == len(rows) == 2  # and the cursor is after all six
    assert answer["Feed-Cursor"] == get(client, cursor=at_end)["Feed-Cursor"]
    unknown = get(client, cursor=at_end, group="district:South")
    assert (unknown.status_code, "district:South" in unknown.json()["detail"]) == (400, True)


def test_rows_of_a_cell_say_which(client: Client, at_end: str, concentrator: Concentrator, settings: Settings) -> None:
    told(concentrator)
    assert "Feed-Cell" not in client.get(READINGS, {"cursor": at_end}).headers
    settings.CELL = "north"
    assert client.get(READINGS, {"cursor": at_end}).headers["Feed-Cell"] == "north"
