"""The tables of codes over REST and by the command: listed, overridden, brought back, audited."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from keyvault.models import AuditRecord
from meters.code_models import SiteCode
from meters.codes.qualities import Fact
from meters.codes.severity import Severity
from meters.readings.obis import STANDARD_LOG
from meters.registry import site_codes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("master_key_file")]
URL = "/api/v1/codes"
LOST = {"name": "mains lost", "severity": "critical", "type": "3.26.0.85", "outage": "begins"}


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def put(client: Client, table: str, key: str, value: Any) -> Any:
    body = {"table": table, "key": key, "value": value}
    return client.put(URL, body, content_type="application/json")


def run(*words: str) -> str:
    out = StringIO()
    call_command("codes", *words, stdout=out)
    return out.getvalue()


def test_an_entry_is_overridden_and_brought_back(root: Client) -> None:
    key = f"{STANDARD_LOG}/1"
    shipped = {row["key"]: row for row in root.get(URL, {"table": "events"}).json()}
    assert shipped[key]["value"]["name"] == "power down"
    stored = put(root, "events", key, LOST).json()
    assert (stored["value"], stored["is_of_site"], stored["shipped"]) == (LOST, True, shipped[key]["value"])
    assert stored["changed_by"] == "root"
    assert site_codes.events().meaning(STANDARD_LOG, 1).severity is Severity.CRITICAL
    assert root.delete(f"{URL}?table=events&key={key}").status_code == 204
    assert site_codes.events().meaning(STANDARD_LOG, 1).name == "power down"
    assert root.delete(f"{URL}?table=events&key={key}").status_code == 404
    assert list(AuditRecord.objects.order_by("pk").values_list("act", flat=True)) == ["codes.put", "codes.reset"]


def test_entries_that_only_the_site_has(root: Client) -> None:
    assert put(root, "events", f"{STANDARD_LOG}/7000", LOST).json()["shipped"] is None
    assert (
        put(root, "reading-types", "7-0:3.0.0", {"reading_type": "0.0.0.1.1.7.58.0.0.0.0.0.0.0.0.0.42.0"}).status_code
        == 200
    )
    assert put(root, "qualities", "failed", {"cim": "2.6.1001", "espi": 10, "nordic": "A05"}).status_code == 200
    found = site_codes.reading_types().of("7-0:3.0.0")
    assert found is not None
    assert found.unit == 42
    assert site_codes.reading_qualities().worst([Fact.FAILED]).cim == "2.6.1001"
    assert {row["table"] for row in root.get(URL).json()} == {"events", "reading-types", "qualities"}


@pytest.mark.parametrize(
    ("table", "key", "value", "said"),
    [
        ("events", "1-0:1.8.0/1", LOST, "names no log"),
        ("events", f"{STANDARD_LOG}/1", {**LOST, "severity": "bad"}, "severity: one of"),
        ("events", f"{STANDARD_LOG}/1", {**LOST, "colour": "red"}, "has no colour; it has name, severity"),
        ("reading-types", "1.8.0", {"reading_type": "1"}, "not an OBIS code"),
        ("reading-types", "1-0:1.8.0", {}, "18 numbers"),
        ("qualities", "good", {}, "is no fact about a reading"),
        ("nothing", "x", {}, "not a valid choice"),
    ],
)
def test_what_is_wrong_is_named(root: Client, table: str, key: str, value: dict[str, Any], said: str) -> None:
    answer = put(root, table, key, value)
    assert answer.status_code == 400
    assert said in answer.content.decode()
    assert not SiteCode.objects.exists()


class TestCommand:
    def test_put_list_and_reset(self) -> None:
        words = [f"{name}={value}" for name, value in LOST.items()]
        assert run("put", "events", f"{STANDARD_LOG}/1", *words) == f"{STANDARD_LOG}/1 is stored.\n"
        assert "site name=mains lost" in run("list", "events").replace("  ", " ")
        assert json.loads(run("list", "events", "--json")) == {f"{STANDARD_LOG}/1": LOST}
        run("put", "qualities", "failed", "cim=2.6.1", "espi=10", "nordic=A04")
        run("reset", "events", f"{STANDARD_LOG}/1")
        with pytest.raises(CommandError, match="has no entry"):
            run("reset", "events", f"{STANDARD_LOG}/1")

    def test_a_file_is_loaded_whole_or_not_at_all(self, tmp_path: Path) -> None:
        file = tmp_path / "codes.json"
        file.write_text(json.dumps({f"{STANDARD_LOG}/{n}": LOST for n in range(300, 310)}))
        assert "10 entries are right" in run("load", "events", str(file), "--dry-run")
        assert not SiteCode.objects.exists()
        assert run("load", "events", str(file)) == "New or changed: 10 of 10 entries.\n"
        assert run("load", "events", str(file)) == "New or changed: 0 of 10 entries.\n"
        file.write_text(json.dumps({f"{STANDARD_LOG}/400": LOST, f"{STANDARD_LOG}/401": {**LOST, "type": "x"}}))
        for words in ([], ["--dry-run"]):
            with pytest.raises(CommandError, match="type: an EndDeviceEventType"):
                run("load", "events", str(file), *words)
        assert SiteCode.objects.count() == 10

    @pytest.mark.parametrize(("text", "said"), [("[]", "not of the form"), ("{", "not JSON"), (None, "cannot be read")])
    def test_what_is_no_file_of_codes(self, tmp_path: Path, text: str | None, said: str) -> None:
        file = tmp_path / "codes.json"
        if text is not None:
            file.write_text(text)
        with pytest.raises(CommandError, match=said):
            run("load", "events", str(file))

    def test_fields_have_values(self) -> None:
        with pytest.raises(CommandError, match="not of the form FIELD=VALUE"):
            run("put", "events", f"{STANDARD_LOG}/1", "name")
