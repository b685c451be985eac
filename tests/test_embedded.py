"""Embedded services: found from elsewhere, alone in their folder, stopped with their block, clear errors."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis

from ami_headend.local import embedded
from ami_headend.local.embedded import EmbeddedError
from tests.flows.stack import wait_for

NOTHING_SET = {
    key: value for key, value in os.environ.items() if key not in {"DATABASE_URL", "REDIS_URL", "SECRET_KEY"}
}

HOLDER = """
import signal, sys, time
from pathlib import Path
from ami_headend.local import embedded
signal.signal(signal.SIGINT, signal.default_int_handler)  # where this is inherited as ignored
with embedded.services(Path(sys.argv[1])):
    print("running", flush=True)
    time.sleep(120)
"""


def redis_answers(var_dir: Path) -> bool:
    with redis.Redis.from_url(embedded.redis_url(var_dir)) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def test_services_run_inside_the_block_and_keep_the_data(tmp_path: Path) -> None:
    with embedded.services(tmp_path, NOTHING_SET) as env:
        assert env["DATABASE_URL"] == embedded.database_url(tmp_path)
        with psycopg.connect(embedded.database_url(tmp_path, embedded.OWNER)) as connection:
            connection.execute("CREATE TABLE kept (n int); GRANT SELECT ON kept TO headend")
            settings: dict[str, str] = dict(
                connection.execute(
                    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit')"
                ).fetchall()
            )
        assert settings == {"fsync": "on", "synchronous_commit": "on"}
        assert redis_answers(tmp_path)
        assert embedded.running(tmp_path)
    assert not embedded.running(tmp_path)
    assert not redis_answers(tmp_path)
    with embedded.services(tmp_path, NOTHING_SET) as env, psycopg.connect(env["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_what_is_configured_is_not_started(tmp_path: Path) -> None:
    configured = {"DATABASE_URL": "postgres://u@db/x", "REDIS_URL": "redis://r/0", "SECRET_KEY": "x", "PATH": "/bin"}
    with embedded.services(tmp_path / "var", configured) as env:
        assert env.pop("PATH").startswith("/bin:")  # PostgreSQL's own programs come last
        assert env | {"PATH": "/bin"} == {**configured, "AMI_VAR_DIR": str(tmp_path / "var")}
    assert not (tmp_path / "var").exists()


def test_a_command_of_the_local_stack_is_told_where_it_is(tmp_path: Path) -> None:
    environ = {"AMI_VAR_DIR": str(tmp_path), "PATH": "/bin"}
    with embedded.configured(environ, ["doctor"]):
        assert environ["DATABASE_URL"] == environ["EMBEDDED_DATABASE_URL"] == embedded.database_url(tmp_path)
        assert environ["OWNER_DATABASE_URL"] == embedded.database_url(tmp_path, embedded.OWNER)
        assert environ["REDIS_URL"] == embedded.redis_url(tmp_path)
        assert environ["SECRET_KEY"] == embedded.secret_key(tmp_path)
        assert not embedded.running(tmp_path), "only a command that needs it starts the database"


def test_a_server_of_somebody_else_s_is_not_called_embedded(tmp_path: Path) -> None:
    environ = {"AMI_VAR_DIR": str(tmp_path), "DATABASE_URL": "postgres://u@db/x"}
    with embedded.configured(environ, ["up"]):
        assert not {"EMBEDDED_DATABASE_URL", "OWNER_DATABASE_URL"} & set(environ)
        assert environ["REDIS_URL"] == embedded.redis_url(tmp_path)
    with (
        pytest.raises(EmbeddedError, match="OWNER_DATABASE_URL is set and DATABASE_URL is not"),
        embedded.configured({"AMI_VAR_DIR": str(tmp_path), "OWNER_DATABASE_URL": "postgres://o@db/x"}, ["doctor"]),
    ):
        pass


def test_an_exception_stops_what_was_started(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), embedded.services(tmp_path, NOTHING_SET):
        raise RuntimeError("inside")
    assert not embedded.running(tmp_path)
    assert not redis_answers(tmp_path)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_second_run_is_refused_and_the_first_leaves_nothing(tmp_path: Path, end: signal.Signals) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=NOTHING_SET,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        restore_signals=True,
    )
    with holder:
        assert holder.stdout is not None
        started = holder.stdout.readline()
        assert started == b"running\n", holder.stderr and holder.stderr.read().decode()
        with (
            pytest.raises(EmbeddedError, match=f"^Process {holder.pid} already runs"),
            embedded.services(tmp_path, NOTHING_SET),
        ):
            pass
        assert embedded.running(tmp_path), "the refused run must not stop the first one's services"
        holder.send_signal(end)
        holder.wait(30)
    if end == signal.SIGKILL:  # the kernel tells them that their parent died
        wait_for("both have ended", lambda: not embedded.running(tmp_path) and not redis_answers(tmp_path))
        with embedded.services(tmp_path, NOTHING_SET):
            assert redis_answers(tmp_path)
    assert not embedded.running(tmp_path)
    assert not redis_answers(tmp_path)


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "with space"
    folder.mkdir(parents=True)
    with embedded.services(folder, NOTHING_SET) as env, psycopg.connect(env["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert redis_answers(folder)
        short = Path(env["REDIS_URL"].partition("://")[2]).parents[1]
        assert sorted(one.name for one in short.iterdir()) == ["postgres", "redis"]
    assert not short.exists()


def test_a_foreign_data_folder_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "postgres"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(EmbeddedError, match="holds no PostgreSQL"), embedded.services(tmp_path, NOTHING_SET):
        pass
    (foreign / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedError, match="holds PostgreSQL 16"), embedded.services(tmp_path, NOTHING_SET):
        pass
    assert sorted(path.name for path in foreign.iterdir()) == ["PG_VERSION", "notes.txt"]


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot be written"), embedded.services(tmp_path / "file" / "var", {}):
        pass
    with pytest.raises(EmbeddedError, match="set SECRET_KEY"):
        embedded.secret_key(tmp_path / "file" / "var")


def test_a_missing_redis_server_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match="There is no redis-server"):
        embedded.start_redis(tmp_path)


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    with embedded.services(tmp_path, NOTHING_SET):
        pass
    (tmp_path / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match=r"PostgreSQL did not start: .*the whole log is"):
        embedded.start_postgres(tmp_path)


def test_secret_key_is_random_private_and_one_for_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: embedded.secret_key(tmp_path / "a"), range(16)))
    assert len(keys) == 1
    assert len(keys.pop()) >= 64
    assert stat.S_IMODE((tmp_path / "a" / "secret.key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["secret.key"]
    assert embedded.secret_key(tmp_path / "b") != embedded.secret_key(tmp_path / "a")


def test_a_stale_pid_file_is_no_running_server(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    lines = [str(os.getpid()), "", str(int(time.time())), "5432", "", "", "", "ready"]
    (tmp_path / "postgres" / "postmaster.pid").write_text("\n".join(lines))
    assert not embedded.running(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_root_s_own_folders_are_opened_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with mode 0700 stays so, and so do all above it; the cluster lies where its user can reach it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    above = [folder for folder in (home, *home.parents) if folder.stat().st_uid == 0]
    before = {folder: folder.stat().st_mode for folder in above}
    package = Path(embedded.postgres_program("postgres")).parents[2]
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), home / name, symlinks=True)
    programs = home / package.name / "pginstall18" / "bin"
    (programs / "postgres").chmod(0o700)  # as a strict umask installs it
    monkeypatch.setattr("ami_headend.local.embedded.cluster.postgres_program", lambda name: str(programs / name))
    for _ in range(2):
        with embedded.services(home / "var", NOTHING_SET) as env, psycopg.connect(env["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert embedded.running(home / "var")
            assert (home / "var" / "postgres").is_symlink()
    assert {folder: folder.stat().st_mode for folder in above} == before
    assert stat.S_IMODE((programs / "postgres").stat().st_mode) == 0o700
