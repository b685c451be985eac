"""Tokens of programs: made, found, rotated, revoked; what is stored of them; what a restore must not forget."""

import base64
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts.conditions import site
from ami_headend.alerts.models import Condition, Rule
from ami_headend.api_tokens import tokens
from ami_headend.api_tokens.journal_replay import TokenReplayer
from ami_headend.api_tokens.models import ApiToken
from ami_headend.api_tokens.tokens import TokenError, UnknownTokenError
from ami_headend.core import bearer
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.journal import JournalError, reading
from keyvault.journal.segments import JournalRecord
from keyvault.models import AuditRecord

pytestmark = pytest.mark.django_db

NOW = timezone.now()
ANN = Actor("ann", "192.0.2.7")
DAY = timedelta(days=1)


def made(name: str = "billing", *scopes: str, days: int = 30) -> tokens.Made:
    return tokens.make(ANN, name, scopes or ("readings",), days, NOW)


def test_a_secret_has_256_bits_a_kind_and_a_checksum_and_only_its_digest_is_kept() -> None:
    secret = made().secret
    assert len(base64.urlsafe_b64decode(secret[4:-8] + "=")) == 32
    assert (secret[:4], len(secret)) == ("ami_", 55)
    row = ApiToken.objects.get()
    assert bytes(row.digest) == hashlib.sha256(secret.encode()).digest()
    assert not [value for value in ApiToken.objects.values_list() if secret in repr(value)]
    assert secret not in f"{row!r}{row}{list(AuditRecord.objects.values_list())}"
    record = AuditRecord.objects.latest("number")
    assert (record.act, record.actor) == ("api_token.make", "ann")
    assert record.subject | {"until": ""} == {"token": "billing", "id": row.pk, "scopes": ["readings"], "until": ""}


def test_a_mistyped_secret_is_refused_without_a_query(django_assert_num_queries: object) -> None:
    secret = made().secret
    wrong = [secret[:-1], secret + "0", secret[:10] + ("a" if secret[10] != "a" else "b") + secret[11:], "", "ami_"]
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert [tokens.find(one) for one in [*wrong, bearer.new(bearer.CONCENTRATOR), "caf\u00e9"]] == [None] * 7
    assert tokens.find(secret) is not None


@pytest.mark.parametrize(
    ("name", "scopes", "days", "why"),
    [
        ("", ["readings"], 30, "needs a name"),
        ("a\x07b", ["readings"], 30, "cannot be shown"),
        ("x" * 101, ["readings"], 30, "at most 100 characters"),
        ("mdm", [], 30, "needs a scope"),
        ("mdm", ["everything"], 30, "no scope everything"),
        ("mdm", ["readings"], 0, "1 to 366 days"),
        ("mdm", ["readings"], 10**12, "1 to 366 days"),
        ("billing", ["readings"], 30, "name"),
    ],
)
def test_what_cannot_be_is_not_made(name: str, scopes: list[str], days: int, why: str) -> None:
    made()
    with pytest.raises(TokenError, match=why):
        tokens.make(ANN, name, scopes, days, NOW)
    assert ApiToken.objects.count() == 1


def test_both_secrets_are_good_for_the_overlap_and_a_third_ends_the_first() -> None:
    token, first = made()
    second = tokens.rotate(ANN, token.pk, 60, 2 * DAY, NOW + DAY).secret
    row, is_previous = tokens.find(first) or pytest.fail("the previous secret is not found")
    assert (row.pk, is_previous) == (token.pk, True)
    assert row.takes_previous(NOW + 3 * DAY - timedelta(microseconds=1))
    assert not row.takes_previous(NOW + 3 * DAY)
    assert row.expires_at == NOW + 61 * DAY
    third = tokens.rotate(ANN, token.pk, 60, timedelta(), NOW + DAY).secret
    assert tokens.find(first) is None
    row, is_previous = tokens.find(second) or pytest.fail("the previous secret is not found")
    assert not row.takes_previous(NOW + DAY)
    found = tokens.find(third)
    assert found is not None
    assert found[1] is False
    assert AuditRecord.objects.filter(act="api_token.rotate").count() == 2


def test_an_overlap_does_not_lengthen_the_life_of_a_secret() -> None:
    token, _ = made(days=1)
    tokens.rotate(ANN, token.pk, 30, 20 * DAY, NOW)
    token.refresh_from_db()
    assert token.previous_until == NOW + DAY
    with pytest.raises(TokenError, match="30 days"):
        tokens.rotate(ANN, token.pk, 30, 31 * DAY, NOW)


def test_a_revoked_token_stays_and_its_name_is_free_again() -> None:
    token, _ = made()
    tokens.revoke(ANN, token.pk, NOW + DAY)
    for act in (lambda: tokens.revoke(ANN, token.pk, NOW), lambda: tokens.rotate(ANN, token.pk, 1, DAY, NOW)):
        with pytest.raises(UnknownTokenError):
            act()
    again, _ = made()
    assert [one.state(NOW + 2 * DAY) for one in tokens.listed()] == ["valid", "revoked"]
    assert again.pk != token.pk


def test_use_is_noted_once_a_minute() -> None:
    token, _ = made()
    for after_s, address, expected in [(0, "192.0.2.1", 0), (59, "192.0.2.2", 0), (61, "192.0.2.3", 61)]:
        token.refresh_from_db()
        tokens.note_use(token, address, NOW + timedelta(seconds=after_s), is_previous=False)
        token.refresh_from_db()
        assert token.last_used_at == NOW + timedelta(seconds=expected)
    assert token.last_used_from == "192.0.2.3"


def test_an_alert_comes_before_a_secret_expires_and_ends_with_its_rotation() -> None:
    rule = Rule.objects.get(condition=Condition.API_TOKEN_EXPIRES)
    token, _ = made(days=30)
    assert site.api_token_expires(rule, [], NOW + 15 * DAY).listed == []
    for at in (NOW + 17 * DAY, NOW + 40 * DAY):
        (finding,) = site.api_token_expires(rule, [], at).listed
        assert finding.summary == f"tokens expire: billing on {NOW + 30 * DAY:%Y-%m-%d}"
    tokens.rotate(ANN, token.pk, 60, DAY, NOW)
    assert site.api_token_expires(rule, [], NOW + 17 * DAY).listed == []
    tokens.revoke(ANN, token.pk, NOW)
    assert site.api_token_expires(rule, [], NOW + 90 * DAY).listed == []


def test_no_act_is_done_that_cannot_be_recorded(settings: Settings, tmp_path: Path) -> None:
    token, secret = made()
    (tmp_path / "file").touch()
    settings.KEY_JOURNAL_DIR = tmp_path / "file"
    acts = (
        lambda: made("mdm"),
        lambda: tokens.rotate(ANN, token.pk, 1, DAY, NOW),
        lambda: tokens.revoke(ANN, token.pk, NOW),
    )
    for act in acts:
        with pytest.raises(JournalError), transaction.atomic():
            act()
    row, is_previous = tokens.find(secret) or pytest.fail("it is gone")
    assert (row.state(NOW), is_previous, ApiToken.objects.count()) == ("valid", False, 1)


def journaled(settings: Settings) -> list[JournalRecord]:
    found = reading.read([settings.KEY_JOURNAL_DIR], master_key.provider().fresh(), 0)
    return [record for record in found if record.kind == "api_token"]


def rows() -> list[dict[str, Any]]:
    return [dict(row) for row in ApiToken.objects.order_by("pk").values()]


def test_a_restore_of_an_older_dump_revives_no_token(settings: Settings) -> None:
    settings.KEY_JOURNAL_DIR.mkdir(exist_ok=True)
    (gone, gone_secret), (kept, first) = made("gone"), made("kept", "feed", "readings")
    dump = rows()
    second = tokens.rotate(ANN, kept.pk, 90, DAY, NOW).secret
    tokens.revoke(ANN, gone.pk, NOW + DAY)
    late = made("late").secret
    after = rows()
    ApiToken.objects.all().delete()
    ApiToken.objects.bulk_create(ApiToken(**row) for row in dump)
    replayer = TokenReplayer()
    for _ in range(2):  # a replay may run twice
        for record in journaled(settings):
            replayer.kinds["api_token"](record)
        for row, known in zip(rows(), after, strict=True):
            times = ("created_at", "issued_at", "expires_at", "previous_until", "revoked_at")
            assert all((row[n] is None) is (known[n] is None) for n in times)
            assert all(row[n] is None or abs(row[n] - known[n]) < timedelta(milliseconds=1) for n in times)
            same = ("id", "name", "scopes", "created_by", "previous_digest")
            assert [row[n] for n in same] == [known[n] for n in same]
    states = {name: tokens.find(secret) for name, secret in {"gone": gone_secret, "kept": second, "late": late}.items()}
    assert {name: found and found[0].state(NOW + 2 * DAY) for name, found in states.items()} == {
        "gone": "revoked", "kept": "valid", "late": "valid"
    }  # fmt: skip
    found = tokens.find(first)
    assert found is not None
    assert found[1] is True
    assert made("new").token.pk > max(row["id"] for row in after)


def test_a_restore_knows_who_has_which_secret(settings: Settings) -> None:
    settings.KEY_JOURNAL_DIR.mkdir(exist_ok=True)
    people = [User.objects.create_user(name) for name in ("ann", "ben")]
    ann, ben = (Actor(user.get_username(), "", user.pk) for user in people)
    token = tokens.make(ann, "erp", ["commands"], 30, NOW).token
    tokens.rotate(ben, token.pk, 30, DAY, NOW)
    ApiToken.objects.all().delete()
    for record in journaled(settings):
        TokenReplayer().kinds["api_token"](record)
    found = ApiToken.objects.get()
    assert [found.maker_of(is_previous=is_previous) for is_previous in (False, True)] == [people[1].pk, people[0].pk]
    # A terminal whose user has no account here says nothing of who has it.
    tokens.rotate(Actor("nobody", "terminal"), token.pk, 30, DAY, NOW)
    found.refresh_from_db()
    assert [found.maker_id, found.previous_maker_id] == [people[1].pk, people[1].pk]


def test_a_token_that_was_not_committed_gives_way_to_the_one_of_its_name(settings: Settings) -> None:
    settings.KEY_JOURNAL_DIR.mkdir(exist_ok=True)
    with transaction.atomic():
        made("mdm")
        transaction.set_rollback(True)
    secret = made("mdm").secret
    ApiToken.objects.all().delete()
    for record in journaled(settings):
        TokenReplayer().kinds["api_token"](record)
    found = tokens.find(secret)
    assert found is not None
    assert [one.state(NOW) for one in tokens.listed()] == ["valid", "revoked"]


def test_the_command_makes_lists_rotates_and_revokes(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("api_token", "list")
    assert "There is no token" in capsys.readouterr().out
    call_command("api_token", "make", "billing", scope=["readings", "feed"], days=10)
    first = capsys.readouterr().out.strip()
    call_command("api_token", "rotate", "billing", overlap_hours=1)
    out, err = capsys.readouterr()
    assert "The secret before is good until" in err
    assert out.strip() != first
    assert tokens.find(out.strip()) is not None
    call_command("api_token", "list")
    assert "billing  valid until" in (said := capsys.readouterr().out)
    assert "readings+feed, never used" in said
    call_command("api_token", "revoke", "billing")
    call_command("api_token", "list", json=True)
    assert '"state": "revoked"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["make", "mdm"], "needs a scope.*Nothing was changed"),
        (["make", "mdm", "--scope", "feed", "--days", "9999"], "1 to 366 days"),
        (["rotate", "mdm"], "no token 'mdm'"),
        (["revoke"], "Name the token to revoke"),
        (["list", "mdm"], "list takes no name"),
    ],
)
def test_the_command_refuses_in_one_sentence(words: list[str], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        call_command("api_token", *words)
