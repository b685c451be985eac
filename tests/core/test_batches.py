"""Rows are deleted in batches, the first of an order first."""

from datetime import UTC, datetime, timedelta

import pytest

from ami_headend.core import batches
from ami_headend.signin.models import SignIn
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def test_all_of_a_queryset_go_and_no_more_at_once_than_a_batch() -> None:
    for hours in range(6):
        at = NOON - timedelta(hours=hours)
        SignIn.objects.create(hour=at, account="", address="", outcome="wrong_password", first_at=at, last_at=at)
    with counting() as statements:
        assert batches.delete(SignIn.objects.filter(last_at__lt=NOON).order_by("last_at", "pk"), 2) == 5
    assert sum(statement.startswith("DELETE") for statement in statements) == 3
    assert SignIn.objects.get().last_at == NOON
    assert batches.delete(SignIn.objects.filter(last_at__lt=NOON).order_by("pk"), 2) == 0
