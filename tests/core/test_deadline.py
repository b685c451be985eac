"""A deadline ends whatever a block does, in the database's driver too."""

import signal
import threading
import time

import pytest
from django.db import connection

from ami_headend.core.deadline import DeadlineError, deadline


@pytest.mark.django_db
def test_a_statement_that_goes_on_is_left() -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineError), connection.cursor() as cursor, deadline(0.1):
        cursor.execute("SELECT pg_sleep(2)")  # the server goes on with it, for as long
    assert time.monotonic() - started < 2
    connection.close()


def test_in_time_nothing_happens_and_the_signal_is_as_before() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(60):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_another_thread_there_is_none() -> None:
    ended = threading.Event()

    def work() -> None:
        with deadline(0.01):
            time.sleep(0.1)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended.is_set()
