"""Advisory locks: one space of numbers for all of them, and an order in which they are taken."""

import re
from pathlib import Path

import pytest
from django.conf import settings

from ami_headend.core import locks
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from tests.concentrators.statements import counting
from tests.test_one_home import production

_NUMBERS = {name: number for name, number in vars(locks).items() if name.isupper() and isinstance(number, int)}


def test_no_two_locks_have_one_number() -> None:
    """Two that do stand in each other's way: alerts, say, would not be looked for while keys are imported."""
    assert len(_NUMBERS) >= 10
    assert len(set(_NUMBERS.values())) == len(_NUMBERS)


def test_every_lock_is_taken_somewhere() -> None:
    elsewhere = set[str]()
    for app in ("ami_headend", "concentrators", "meters", "keyvault"):
        for path in Path(settings.BASE_DIR, app).rglob("*.py"):
            if path != Path(locks.__file__):
                elsewhere.update(re.findall(r"\b[A-Z]\w+", path.read_text()))
    assert not _NUMBERS.keys() - elsewhere


@pytest.mark.parametrize("module", [name for name, text in production().items() if "advisory_lock(" in text])
def test_no_lock_has_a_number_of_its_own(module: str) -> None:
    """The registry is the one place where a number is seen to be taken."""
    assert not re.search(r"^_?\w*LOCK\w*\b[^=\n]*= *\(?(0x)?[0-9]", production()[module], re.MULTILINE)


@pytest.mark.django_db
def test_an_act_takes_the_journals_lock_before_that_of_the_chain() -> None:
    """As a replay does, which holds the journal's alone: in another order the two would lock each other out."""
    with counting() as statements:
        chain.record(Actor("ann", "test"), "test", {})
    taken = next(statement for statement in statements if "pg_advisory_xact_lock" in statement)
    assert "pg_advisory_xact_lock_shared" in taken
