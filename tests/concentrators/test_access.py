"""Who may post is journaled: a restore lets nobody in again who was shut out, and the doors say what is wrong."""

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import Settings

from concentrators.fleet import registry, tokens
from concentrators.models import Concentrator, ConcentratorToken
from keyvault import master_key
from keyvault.audit.chain import Actor, command_actor
from keyvault.journal import reading
from keyvault.models import AuditRecord
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
ANN = Actor("ann", "test")


@pytest.fixture
def folder(settings: Settings, tmp_path: Path) -> Path:
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    return tmp_path / "journal"


def test_an_old_row_lets_no_concentrator_in_again(folder: Path) -> None:
    concentrator = Concentrator(name="DCU-1")
    registry.save_as(ANN, concentrator)
    old, older = (Concentrator.objects.get(pk=concentrator.pk) for _ in range(2))
    concentrator.is_active, concentrator.moved_to = False, "b"
    registry.save_as(ANN, concentrator, ["is_active", "moved_to"])
    old.name = "DCU-2"
    registry.save_as(ANN, old, ["name"])
    assert (old.name, old.is_active, old.moved_to) == ("DCU-2", False, "b")
    assert Concentrator.objects.values_list("name", "is_active", "moved_to").get() == ("DCU-2", False, "b")
    with pytest.raises(IntegrityError), transaction.atomic():
        registry.save_as(ANN, older, ["is_active"])
    said = [record.body for record in reading.read([folder], master_key.current()) if record.kind == "concentrator"]
    assert said[-1] == [concentrator.pk, "DCU-2", False, None, "b"]


def test_a_concentrator_that_changes_still_takes_uplinks(folder: Path) -> None:
    """They point at its row: a lock on its key would hold them up until the change is recorded."""
    concentrator = ConcentratorFactory.create()
    concentrator.is_active = False
    with CaptureQueriesContext(connection) as queries:
        registry.save_as(ANN, concentrator, ["is_active"])
    (locking,) = [query["sql"] for query in queries if "_concentrator" in query["sql"] and " FOR " in query["sql"]]
    assert locking.endswith("FOR NO KEY UPDATE")


def test_an_old_page_lets_no_concentrator_in_again(folder: Path, admin_client: Client) -> None:
    concentrator = ConcentratorFactory.create(is_active=False)
    url = f"/admin/concentrators/concentrator/{concentrator.pk}/change/"
    form = {"name": "DCU-2", "system_title_hex": "", "is_active": "on"}
    assert admin_client.post(url, {**form, "initial-is_active": "True"}).status_code == 302
    assert Concentrator.objects.values_list("name", "is_active").get() == ("DCU-2", False)
    assert admin_client.post(url, form).status_code == 302
    assert Concentrator.objects.get().is_active


def test_letting_in_and_shutting_out_are_journaled(folder: Path) -> None:
    call_command("concentrator", "add", "DCU-1")
    concentrator = Concentrator.objects.get()
    registry.issue_token(ANN, concentrator, "spring", None)
    token = ConcentratorToken.objects.get()
    registry.revoke_token(ANN, token)
    tokens.revoke(token)  # it is revoked already
    concentrator.is_active = False
    registry.save_as(ANN, concentrator, ["is_active"])
    read = reading.read([folder], master_key.current())
    records = [(record.kind, record.body) for record in read if not record.kind.startswith("audit")]
    issued, revoked = int(token.created_at.timestamp()), int(ConcentratorToken.objects.get().revoked_at.timestamp())  # type: ignore[union-attr]
    digest = bytes(token.digest)
    assert records == [
        ("concentrator", [concentrator.pk, "DCU-1", True, None]),
        ("token_issued", [concentrator.pk, "DCU-1", token.pk, digest, "spring", issued, None]),
        ("token_revoked", [digest, revoked]),
        ("concentrator", [concentrator.pk, "DCU-1", False, None]),
    ]
    acts = AuditRecord.objects.order_by("number").values_list("actor", "act", "result")
    assert [*acts] == [
        (command_actor().name, "concentrator.save", "registered"),
        ("ann", "token.issue", "done"),
        ("ann", "token.revoke", "done"),
        ("ann", "concentrator.save", "shut out"),
    ]
    assert digest.hex() not in str(AuditRecord.objects.values_list("subject", flat=True))


def test_doors_say_so_where_the_journal_cannot_be_written(
    folder: Path, admin_client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    concentrator = ConcentratorFactory.create()
    tokens.issue(concentrator)
    token = ConcentratorToken.objects.get()
    (folder / "x").parent.rename(folder.with_name("away"))
    folder.write_text("in the way")
    for words in (["add", "DCU-2"], ["token", concentrator.name], ["revoke", concentrator.name, "--token", token.pk]):
        with pytest.raises(CommandError, match=r"key journal .* cannot be written"):
            call_command("concentrator", *words)
    page = reverse("admin:concentrators_concentrator_change", args=[concentrator.pk])
    form = {"name": concentrator.name, "tokens-TOTAL_FORMS": "0", "tokens-INITIAL_FORMS": "0"}
    assert "Nothing was changed" in admin_client.post(page, form, follow=True).content.decode()
    page = reverse("admin:concentrator", args=[concentrator.pk])
    for given in (
        {"act": "make"},
        {"act": "rotate", "token": token.pk},
        {"act": "revoke", "token": token.pk, "confirmed": 1},
    ):
        assert "cannot be written" in admin_client.post(page, given, follow=True).content.decode()
    assert ConcentratorToken.objects.get().expires_at is None
    assert list(Concentrator.objects.values_list("is_active", flat=True)) == [True]
    assert list(ConcentratorToken.objects.values_list("revoked_at", flat=True)) == [None]
