"""Who may post is journaled: a restore lets nobody in again who was shut out, and the doors say what is wrong."""

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from concentrators import access, tokens
from concentrators.models import Concentrator, ConcentratorToken
from keyvault import masterkey
from keyvault.journal import reading
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(settings: Settings, tmp_path: Path) -> Path:
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    return tmp_path / "journal"


def test_letting_in_and_shutting_out_are_journaled(folder: Path) -> None:
    call_command("concentrator", "add", "DCU-1")
    concentrator = Concentrator.objects.get()
    tokens.issue(concentrator, "spring")
    token = ConcentratorToken.objects.get()
    tokens.revoke(token)
    tokens.revoke(token)  # it is revoked already
    concentrator.is_active = False
    access.save(concentrator)
    records = [(record.kind, record.body) for record in reading.read([folder], masterkey.current())]
    issued, revoked = int(token.created_at.timestamp()), int(ConcentratorToken.objects.get().revoked_at.timestamp())  # type: ignore[union-attr]
    digest = bytes(token.digest)
    assert records == [
        ("concentrator", [concentrator.pk, "DCU-1", True]),
        ("token_issued", [concentrator.pk, "DCU-1", token.pk, digest, "spring", issued, None]),
        ("token_revoked", [digest, revoked]),
        ("concentrator", [concentrator.pk, "DCU-1", False]),
    ]


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
    assert "Nothing was saved" in admin_client.post(page, form, follow=True).content.decode()
    issue = reverse("admin:concentrators_concentrator_issue_token", args=[concentrator.pk])
    assert "cannot be written" in admin_client.post(issue, {"label": ""}).content.decode()
    revoke = reverse("admin:concentrators_concentratortoken_revoke", args=[token.pk])
    assert "was not revoked" in admin_client.post(revoke, follow=True).content.decode()
    assert list(Concentrator.objects.values_list("is_active", flat=True)) == [True]
    assert list(ConcentratorToken.objects.values_list("revoked_at", flat=True)) == [None]
