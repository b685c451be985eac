"""Bearer tokens: 256 bits, shown once, kept hashed, several at once, expiring, revocable, with their last use."""

import base64
import hashlib
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from concentrators.fleet import tokens
from concentrators.models import Concentrator, ConcentratorToken

pytestmark = pytest.mark.django_db


def test_a_token_has_256_bits_and_only_its_digest_is_kept(concentrator: Concentrator) -> None:
    issued = {tokens.issue(concentrator, f"number {n}") for n in range(20)}
    assert len(issued) == 20
    token = issued.pop()
    assert len(base64.urlsafe_b64decode(token.removeprefix("dcu_") + "=")) == 32
    row = tokens.find(token, timezone.now())
    assert row is not None
    assert bytes(row.digest) == hashlib.sha256(token.encode()).digest()
    assert not [value for value in ConcentratorToken.objects.values_list() if token in repr(value)]
    assert token not in f"{row!r}{row}"


def test_expiry_is_the_instant_itself(concentrator: Concentrator) -> None:
    now = timezone.now()
    token = tokens.issue(concentrator, expires_at=now)
    assert tokens.find(token, now - timedelta(microseconds=1)) is not None
    assert tokens.find(token, now) is None


def test_revocation_is_of_one_token_and_keeps_its_time(concentrator: Concentrator) -> None:
    gone, kept = tokens.issue(concentrator, "gone"), tokens.issue(concentrator)
    row = ConcentratorToken.objects.get(label="gone")
    tokens.revoke(row)
    row.refresh_from_db()
    revoked_at = row.revoked_at
    assert revoked_at is not None
    tokens.revoke(row)
    row.refresh_from_db()
    assert row.revoked_at == revoked_at
    assert tokens.find(gone, timezone.now()) is None
    assert tokens.find(kept, timezone.now()) is not None


def test_an_inactive_concentrator_has_no_valid_token(concentrator: Concentrator) -> None:
    token = tokens.issue(concentrator)
    Concentrator.objects.update(is_active=False)
    assert tokens.find(token, timezone.now()) is None


@pytest.mark.parametrize("token", ["", "dcu_", "x" * 10_000, "caf\u00e9"])
def test_what_was_never_issued(concentrator: Concentrator, token: str) -> None:
    tokens.issue(concentrator)
    assert tokens.find(token, timezone.now()) is None


def test_last_use_is_noted_to_the_minute(concentrator: Concentrator) -> None:
    token, now = tokens.issue(concentrator), timezone.now()

    def used(at: timedelta) -> object:
        tokens.find(token, now + at)
        return ConcentratorToken.objects.get().last_used_at

    assert used(timedelta()) == now
    assert used(timedelta(seconds=59)) == now
    assert used(timedelta(seconds=61)) == now + timedelta(seconds=61)


def test_a_token_of_a_cell_names_it_and_those_of_before_stay_valid(
    concentrator: Concentrator, settings: Settings
) -> None:
    before = tokens.issue(concentrator)
    settings.CELL = "north"
    token = tokens.issue(concentrator, "of the cell")
    assert token.startswith("dcu_north_")
    new = tokens.rotate(ConcentratorToken.objects.get(label="of the cell"))
    assert new.startswith("dcu_north_")
    settings.CELL = "south"  # a split: what came along is valid under its old name
    for one in (before, token, new):
        assert tokens.find(one, timezone.now()) is not None
    assert tokens.find(token.replace("north", "south"), timezone.now()) is None
