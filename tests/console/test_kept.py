"""Kept answers: asked when they are due, by one alone, and read back as they were."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from django.db import connections, transaction
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend import cached_answers
from ami_headend.cached_answers import Question
from ami_headend.console.keys import questions
from ami_headend.console.overview_panels import QUESTIONS
from ami_headend.health.components import COMPONENTS
from ami_headend.metrics import snapshots
from ami_headend.models import KeptAnswer
from tests.flows import databases


class Row(NamedTuple):
    number: int
    text: str


class Found(NamedTuple):
    at: datetime | None
    number: int
    rows: list[Row]


NOW = timezone.now().replace(microsecond=123_000)


class Asked:
    """A question that counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, now: datetime) -> Found:
        self.times += 1
        return Found(now, self.times, [Row(1, "ä")])

    @property
    def question(self) -> Question:
        return Question("asked", self, Found)


@pytest.fixture
def asked(db: None) -> Asked:
    return Asked()


def ask(asked: Asked, after: timedelta = timedelta()) -> Any:
    return cached_answers.answers([asked.question], NOW + after)["asked"].found


def test_an_answer_is_read_back_as_it_was(asked: Asked) -> None:
    first = ask(asked)
    KeptAnswer.objects.update(took_s=1)
    assert ask(asked) == first == Found(NOW, 1, [Row(1, "ä")])


def test_an_answer_rests_in_proportion_to_its_cost(asked: Asked) -> None:
    ask(asked)
    KeptAnswer.objects.update(took_s=2)
    assert ask(asked, timedelta(seconds=199)).number == 1
    assert ask(asked, timedelta(seconds=201)).number == 2


def test_the_schedule_asks_in_time_so_that_nobody_waits(asked: Asked) -> None:
    assert cached_answers.renew([asked.question], NOW) == ["asked"]
    KeptAnswer.objects.update(took_s=2)
    assert cached_answers.renew([asked.question], NOW + timedelta(seconds=79)) == []
    assert cached_answers.renew([asked.question], NOW + timedelta(seconds=81)) == ["asked"]
    assert asked.times == 2
    KeptAnswer.objects.update(took_s=2)
    assert ask(asked, timedelta(seconds=81)).number == 2


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x01", b"\xff", b"\x83\x01\x02\x03"])
def test_what_another_release_kept_is_asked_anew(asked: Asked, content: bytes) -> None:
    ask(asked)
    KeptAnswer.objects.update(took_s=1000, content=content)
    assert ask(asked).number == 2


def test_every_question_can_be_kept(db: None) -> None:
    for question in (*QUESTIONS, *questions.RENEWED, COMPONENTS, *snapshots.QUESTIONS.values()):
        found = cached_answers.keep(question, NOW)
        assert cached_answers.read(question, KeptAnswer.objects.get(name=question.name)) == found


@pytest.fixture
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """A database to commit to: the audit record, which is in each, cannot be emptied after a test."""
    with django_db_blocker.unblock(), databases.copied():
        yield


def test_while_one_asks_the_others_see_the_old_answer(own_database: None) -> None:
    asked = Asked()
    ask(asked)

    def elsewhere() -> Any:
        try:
            return ask(asked, timedelta(days=1))
        finally:
            connections.close_all()

    with transaction.atomic(), ThreadPoolExecutor(1) as pool:
        KeptAnswer.objects.select_for_update().get(name="asked")
        assert pool.submit(elsewhere).result(10).number == 1
    assert ask(asked, timedelta(days=1)).number == 2
