"""A PostgreSQL and a Redis of a module's own, which its tests stop, freeze and start again."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_django import DjangoDbBlocker

from ami_headend.local import embedded
from tests.flows import databases
from tests.flows.stack import Stack, processes


class Services:
    """Both servers, each as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres: Any = embedded.start_postgres(folder)
        self.redis: Any = embedded.start_redis(folder)

    def stop_postgres(self) -> None:
        self.postgres.stop()

    def start_postgres(self) -> None:
        self.postgres = embedded.start_postgres(self.folder)

    def stop(self) -> None:
        thaw(self.postgres.process)
        self.redis.process.send_signal(signal.SIGCONT)
        self.redis.stop()
        self.postgres.stop()


def freeze(process: Any) -> None:
    """Stops a server and its children where they stand, as on a host that hangs."""
    for one in [process, *process.children(recursive=True)]:
        one.send_signal(signal.SIGSTOP)


def thaw(process: Any) -> None:
    """Lets a server and its children go on."""
    with suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            one.send_signal(signal.SIGCONT)


@contextmanager
def processes_over(
    services: Services, folder: Path, names: tuple[str, ...], environ: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """Processes of a stack over these services, with the test database copied into them."""
    url = embedded.database_url(services.folder, embedded.OWNER).replace(embedded.DATABASE_NAME, "postgres")
    own = {"DATABASE_URL": url, "REDIS_URL": embedded.redis_url(services.folder), "UPLINK_SWEEP_AFTER_S": "1"}
    with (
        databases.moved_to(url, os.environ["DATABASE_URL"]),
        processes(folder, names, {**own, **(environ or {})}, url) as stack,
    ):
        yield stack


def services_and_stack(*names: str, environ: Mapping[str, str] | None = None) -> tuple[Any, Any]:
    """Two fixtures of a module: services of its own, and these processes over them."""

    @pytest.fixture(scope="module")
    def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
        services = Services(tmp_path_factory.mktemp("services"))
        yield services
        services.stop()

    @pytest.fixture(scope="module")
    def stack(
        services: Services,
        django_db_setup: None,
        django_db_blocker: DjangoDbBlocker,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Iterator[Stack]:
        folder = tmp_path_factory.mktemp("stack")
        with django_db_blocker.unblock(), processes_over(services, folder, names, environ) as stack:
            yield stack

    return services, stack
