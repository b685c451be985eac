"""One PostgreSQL and one Redis for the whole run, started before Django reads its settings.

Where DATABASE_URL (of a superuser) or REDIS_URL is set, that server is used instead. Under pytest-xdist the
controller starts them and the workers inherit the addresses; each worker has its own database, Redis number and
folder.
"""

import atexit
import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import parse_qs

import psutil
import psycopg
import pytest
from django.utils.module_loading import import_string
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pytest_django import DjangoDbBlocker
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from ami_headend.local import embedded
from tests.scheduling import LongestFirst

MIGRATED = "TESTS_MIGRATED_LOCK"  # where the workers share one migrated database: the lock of whoever makes it
MEMORY_OCTETS = 6 << 30  # that must be free for a run to be in memory; it takes up to 3 GB
PREFIX = "ami-tests-"  # of a run's folder, then its process: sockets have paths of at most 107 octets
pytest_plugins = ["tests.flows.stack", "tests.keyvault.providers"]
# An example takes long on a busy machine: what a test may cost is measured by tests that say so.
hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("untimed")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return LongestFirst(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is loaded and collected stays: it is not looked through for garbage, now or later.

    What a page leaves is a few MB: to look through everything that lives, ever again, costs a tenth of a run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(100_000, 20, 20)
        gc.enable()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # pytest ends in good order, and so do the services


def _in_memory() -> str | None:
    """A folder whose files are memory, where there is room for a run and programs may be run from it.

    A test database is a thousand files, and is copied a hundred times: on a disk that takes a fifth of a run.
    """
    place = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    if "TMPDIR" in os.environ or not place.is_dir() or os.statvfs(place).f_flag & os.ST_NOEXEC:
        return None
    for folder in place.glob(f"{PREFIX}*"):  # what a run left that was killed
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)) and folder.stat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)
    has_room = min(psutil.virtual_memory().available, shutil.disk_usage(place).free) > MEMORY_OCTETS
    return str(place) if has_room and os.access(place, os.W_OK) else None


def _start_services() -> None:
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_in_memory()))
    stack = ExitStack()
    atexit.register(stack.close)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o711)  # PostgreSQL's user passes through, where root runs the tests
    (folder / "tmp").mkdir(mode=0o700)
    os.environ["TMPDIR"] = str(folder / "tmp")
    tempfile.tempdir = None  # ask again
    os.environ["EMBEDDED_DATA_DIR"] = str(folder / "postgres")
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))  # pytest's usual one is closed again by every other run
    configured = os.environ.get("DATABASE_URL")
    if not configured:
        with embedded.services(folder / "var"):
            _fit_for_tests(embedded.database_url(folder / "var", embedded.OWNER))
    os.environ.update(stack.enter_context(embedded.services(folder / "var")))
    # Tests make databases and look behind the scenes; the processes of live stacks get a role that owns nothing.
    os.environ["DATABASE_URL"] = configured or embedded.database_url(folder / "var", embedded.OWNER)
    if not configured:
        os.environ[MIGRATED] = str(folder / "migrated.lock")
    signal.signal(signal.SIGTERM, _interrupt)


def _fit_for_tests(url: str) -> None:
    """What holds from the next start: room for several live stacks, and no waiting for the disk.

    Databases that are thrown away need not outlive the machine; of a killed process they lose nothing either way. And
    whether the plan of a statement is the one that a test asks for is not up to when statistics were taken last.
    """
    fit = {"max_connections": "400", "fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
    fit["max_wal_size"] = "128"  # MB
    with psycopg.connect(url, autocommit=True) as connection:
        for setting, value in fit.items():
            connection.execute(f"ALTER SYSTEM SET {setting} = {value}")


def _own_redis_number(worker: str) -> None:
    number = int(worker.removeprefix("gw")) + 1
    base, _, query = os.environ["REDIS_URL"].partition("?")
    if base.startswith("unix:"):
        first = int(parse_qs(query).get("db", ["0"])[0])
        os.environ["REDIS_URL"] = f"{base}?db={first + number}"
    else:
        server, _, first_of_tcp = base.removeprefix("redis://").partition("/")
        os.environ["REDIS_URL"] = f"redis://{server}/{int(first_of_tcp or 0) + number}"


def _prepare() -> None:
    gc.disable()  # until all is collected
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        _start_services()
    else:
        _own_redis_number(worker)
        os.environ["AMI_VAR_DIR"] += f"/{worker}"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is started a hundred times is compiled once
    sys.dont_write_bytecode = False
    os.environ["MASTER_KEY_FILE"] = str(Path(os.environ["AMI_VAR_DIR"]) / "master.keys")
    os.environ["TLS"] = "0"
    os.environ["TWO_FACTOR_REQUIRED"] = "0"
    os.environ["REQUIRE_APPROVAL"] = "0"  # tests of approvals turn it on
    os.environ["DJANGO_SETTINGS_MODULE"] = "ami_headend.settings"
    (Path(os.environ["AMI_VAR_DIR"]) / "static").mkdir(mode=0o700, parents=True, exist_ok=True)

    import django  # noqa: PLC0415 - the settings are read here, and need what stands above

    django.setup()
    gc.disable()  # again: our app turned it on
    from ami_headend import urls  # noqa: F401, PLC0415 - tests ask what pages the admin has, which load with addresses

    # A pytest-xdist worker that inherits it would read the settings before it has its own folder and number.
    del os.environ["DJANGO_SETTINGS_MODULE"]


_prepare()


@pytest.fixture(scope="session", autouse=True)
def master_key_file() -> Path:
    """The master key of this test process; every key that a test provisions is wrapped under it."""
    from keyvault import master_key  # noqa: PLC0415 - after django.setup

    path = Path(os.environ["MASTER_KEY_FILE"])
    if not path.exists():
        master_key.init(path)
    return path


@pytest.fixture(scope="session")
def rolled_back_master_key(master_key_file: Path) -> Path:
    """A copy of the first version alone: live stacks rotate the other one, and keep the rows that they rewrapped."""
    return Path(shutil.copy2(master_key_file, master_key_file.with_name("rolled-back.keys")))


@pytest.fixture(scope="session")
def journal_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for key journals, counted here: to find the next number pytest reads all folders of a run each time."""
    folder = tmp_path_factory.mktemp("journals")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _master_key_as_found(
    request: pytest.FixtureRequest, rolled_back_master_key: Path, journal_folders: Iterator[Path]
) -> Iterator[None]:
    """What a test does to the master key goes with its rows, so that no test finds a version another one made."""
    if not request.node.get_closest_marker("django_db"):
        yield
        return
    settings = request.getfixturevalue("settings")
    settings.MASTER_KEY_FILE = rolled_back_master_key
    settings.KEY_JOURNAL_DIR = next(journal_folders)  # a database knows its own alone
    settings.KEY_JOURNAL_DIR.mkdir(mode=0o700)
    before = rolled_back_master_key.read_bytes()
    yield
    if rolled_back_master_key.read_bytes() != before:
        again = rolled_back_master_key.with_suffix(".before")
        again.touch(mode=0o600)
        again.write_bytes(before)
        again.replace(rolled_back_master_key)


@pytest.fixture(scope="session", autouse=True)
def _cheap_hashes() -> None:
    """Of passwords that tests set in this process; those of live stacks cost what they do in production."""
    from ami_headend.signin.hashers import OneAtATime  # noqa: PLC0415 - after django.setup

    OneAtATime.iterations = 1_000


@pytest.fixture(scope="session", autouse=True)
def _static_files_are_found_once() -> Iterator[None]:
    """Each client makes the middleware anew, and that looks for hundreds of files: a twentieth of a run."""
    middleware: Any = import_string("whitenoise.middleware.WhiteNoiseMiddleware")
    found: dict[str, dict[str, Any]] = {}
    find = middleware.add_files_from_finders

    def add(self: Any) -> None:
        if self.static_prefix not in found:
            served, self.files = self.files, {}
            find(self)
            found[self.static_prefix], self.files = self.files, served
        self.files.update(found[self.static_prefix])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware, "add_files_from_finders", add)
        yield


@pytest.fixture(autouse=True)
def _foresight_as_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker's process learned of foreseen counters is no other test's."""
    from concentrators.ingest.transaction_retry import Foresight  # noqa: PLC0415 - after django.setup
    from concentrators.ingest.worker import PROCESS  # noqa: PLC0415 - after django.setup

    monkeypatch.setattr(PROCESS, "foresight", Foresight())


@pytest.fixture(autouse=True)
def _redis_not_resting(monkeypatch: pytest.MonkeyPatch) -> None:
    """That Redis did not answer one test is no reason not to ask it in another."""
    from ami_headend.core import broker_errors  # noqa: PLC0415 - after django.setup

    monkeypatch.setattr(broker_errors, "redis", broker_errors.Rest())


@pytest.fixture(scope="session")
def django_db_setup(
    django_test_environment: None, django_db_modify_db_settings: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """The test database with the partitions of the readings, and a copy of it for live stacks to start from.

    In place of pytest-django's own, which makes no database where all tests at hand use live stacks.
    """
    from django.db import connections  # noqa: PLC0415 - after django.setup
    from django.test.utils import setup_databases, teardown_databases  # noqa: PLC0415 - after django.setup

    from tests.flows import databases  # noqa: PLC0415 - after django.setup

    migrated = partial(setup_databases, verbosity=0, interactive=False)
    with django_db_blocker.unblock():
        lock = os.environ.get(MIGRATED)
        created = databases.made_once(Path(lock), migrated) if lock else migrated()
        role = databases.make_working_role()
        template = databases.make_template()
    yield
    with django_db_blocker.unblock():
        connections.close_all()  # a test that killed its connection has made another one than was set up
        databases.drop(template)
        teardown_databases(created, verbosity=0)
        databases.drop_role(role)
