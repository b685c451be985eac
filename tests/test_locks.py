"""Advisory locks: one space of numbers for all of them, and an order in which they are taken."""

import re
from collections import Counter
from pathlib import Path

import pytest
from django.conf import settings

from keyvault import audit
from keyvault.audit import Actor
from tests.concentrators.statements import counting

_NUMBER = re.compile(r"= (0x616D69[0-9A-F]{2})\b")


def test_no_two_locks_have_one_number() -> None:
    """Two that do stand in each other's way: alerts, say, would not be looked for while keys are imported."""
    found: Counter[str] = Counter()
    for app in ("ami_headend", "concentrators", "meters", "keyvault"):
        for path in Path(settings.BASE_DIR, app).rglob("*.py"):
            found.update(_NUMBER.findall(path.read_text()))
    assert len(found) >= 9
    assert set(found.values()) == {1}, found


@pytest.mark.django_db
def test_an_act_takes_the_journals_lock_before_that_of_the_chain() -> None:
    """As a replay does, which holds the journal's alone: in another order the two would lock each other out."""
    with counting() as statements:
        audit.record(Actor("ann", "test"), "test", {})
    taken = next(statement for statement in statements if "pg_advisory_xact_lock" in statement)
    assert "pg_advisory_xact_lock_shared" in taken
