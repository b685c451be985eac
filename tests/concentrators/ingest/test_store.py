"""The order in which decisions are stored: counters tell first whether they hold, and the journal comes last."""

from typing import Any

import pytest

from concentrators.commands import queue
from concentrators.failures import record
from concentrators.failures.kinds import FailureKind
from concentrators.feed import lots
from concentrators.ingest import store
from concentrators.ingest.decisions import DecidedUplink, Decisions, Failure, Heard, MeterAnswer, Verdicts
from concentrators.ingest.facts import Delivery
from concentrators.totals import totals
from keyvault.device_keys import epochs, tag_failures
from keyvault.opening import Opening
from keyvault.replay_window_store import Care
from meters.readings import store as reading_store
from meters.readings.obis import COMMAND_DONE
from meters.values import Value
from tests.concentrators.ingest.deciding import KID, RECEIVED, Scene

STEPS = [
    (store, "save_counters"),
    (queue, "answered"),
    (queue, "keys_arrived"),
    (tag_failures, "count"),
    (reading_store, "copy_readings"),
    (reading_store, "insert_events"),
    (lots, "add"),
    (totals, "add"),
    (record, "record"),
    (epochs, "activate"),
]
DELIVERY = Delivery(1, 3, RECEIVED, RECEIVED)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What store calls, in order; nothing reaches a database."""
    names: list[str] = []

    def noting(name: str) -> Any:
        return lambda *_, **__: names.append(name)

    for module, name in STEPS:
        monkeypatch.setattr(module, name, noting(name))
    return names


def opening() -> Opening:
    return Opening([], {KID: Scene(key_state="pending").key()}, Care.LOOK)


def test_everything_is_stored_in_that_order(called: list[str]) -> None:
    failure = Failure(0, b"?", FailureKind.MALFORMED, "no frame")
    store.store(
        Decisions(
            uplinks=[DecidedUplink(DELIVERY, Verdicts(), [failure])],
            heard={KID: Heard(RECEIVED, 3)},
            readings=[(7, Value(0, 1, 2, 30, False), 1, None)],
            events=[(7, Value(0, 4, 2, 0, True), 1, None)],
            sums={(3, 1, 30, 0): [2, 1]},
            answers=[MeterAnswer(7, 2, COMMAND_DONE)],
            activated={KID: 7},
        ),
        opening(),
    )
    assert called == [name for _, name in STEPS]


def test_what_has_nothing_to_store_asks_for_nothing(called: list[str]) -> None:
    store.store(Decisions([DecidedUplink(DELIVERY, Verdicts(), [])], {}, [], [], {}, [], {}), opening())
    assert called == ["save_counters", "count"]  # which ask nothing themselves where no counter or tag is at hand
