"""Security events that are noted while others are sent."""

import os
from collections.abc import Iterator

import psycopg
import pytest
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend.core.sql import execute
from ami_headend.siem import pending
from ami_headend.siem.models import Pending
from ami_headend.signin import journal
from ami_headend.signin.models import SignInOutcome
from tests.flows import databases


@pytest.fixture
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    with django_db_blocker.unblock(), databases.copied() as name:
        yield databases.at_database(os.environ["DATABASE_URL"], name)


def test_a_transaction_that_notes_an_event_holds_up_nothing(own_database: str) -> None:
    """Neither waits for the other: both lock several rows, in no order that they share."""
    pending.switch(is_on=True)
    for address in ("192.0.2.9", "192.0.2.10"):
        journal.record(SignInOutcome.LOCKED_OUT, "nobody", address)
    now = timezone.now()
    rows = pending.claim(now)
    assert len(rows) == 2
    execute("SET lock_timeout = '1s'")
    with psycopg.connect(own_database) as other:
        other.execute("UPDATE siem_pending SET version = version + 1 WHERE key = %s", [rows[0].key])
        pending.note_sent(rows, now, now)
        other.commit()
    execute("RESET lock_timeout")
    assert Pending.objects.values_list("key", "version").get() == (rows[0].key, 2)
