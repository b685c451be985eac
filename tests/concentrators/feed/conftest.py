"""A database of the module's own: positions are given to committed transactions alone."""

import os
from collections.abc import Iterator

import pytest
from pytest_django import DjangoDbBlocker

from tests.flows import databases


@pytest.fixture(scope="module")
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    with django_db_blocker.unblock(), databases.copied() as name:
        yield databases.at_database(os.environ["DATABASE_URL"], name)
