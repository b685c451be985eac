"""A broker that comes back while a pool process has just died: the worker goes on, and the process is replaced."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from celery.concurrency import asynpool
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop

import ami_headend.celery as workers
from ami_headend.worker_pool import Pool
from tests.flows.stack import wait_for


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()
    set_event_loop(None)


def started(hub: Hub, kind: Any) -> Any:
    pool = kind(1, threads=False, synack=False, proc_alive_timeout=60.0)
    pool.register_with_event_loop(hub)
    return pool


def lose(pool: Any, hub: Hub) -> Any:
    """Its process is killed and found to be so; before it is replaced the broker is lost, and found again."""
    [process] = pool._pool
    os.kill(process.pid, signal.SIGKILL)
    wait_for("it is dead", lambda: not process._is_alive(), 10)
    pool._untrack_child_process(process, hub)
    hub.reset()
    return process


def end(pool: Any) -> None:
    pool.terminate()
    pool.join()


def test_celerys_own_ends_the_worker(hub: Hub) -> None:
    """Where this fails, Celery or kombu has mended it: then ``ami_headend.worker_pool`` can go."""
    pool = started(hub, asynpool.AsynPool)
    try:
        lose(pool, hub)
        with pytest.raises(ValueError, match="file descriptor is None"):
            pool.register_with_event_loop(hub)
    finally:
        end(pool)


def test_ours_goes_on_and_replaces_the_process(hub: Hub) -> None:
    assert workers.app.conf.worker_pool == "prefork"
    assert TaskPool.Pool is Pool
    pool = started(hub, TaskPool.Pool)
    try:
        lost = lose(pool, hub)
        pool.register_with_event_loop(hub)
        pool.maintain_pool()
        [process] = pool._pool
        assert process.pid != lost.pid
        assert process._sentinel_poll in hub.readers  # watched, as the one before was
    finally:
        end(pool)
