"""What holds the master key: one suite for the file and the token, and what goes wrong with each."""

import json
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from ami_headend.health.doctor import examine
from concentrators.ingest import verification
from concentrators.ingest.transaction_retry import TransientError
from keyvault import master_key
from keyvault.journal import reading, writing
from keyvault.journal.segments import JournalRecord
from keyvault.master_key import MasterKeyError, MasterKeyState, Provider, Purpose, UnwrapError
from keyvault.master_key.file import FileProvider
from tests.concentrators.fleet import commission, post
from tests.factories import ConcentratorFactory
from tests.keyvault.providers import PIN, SoftHsm

SECRET = bytes(range(32))
OWNER = bytes.fromhex("0024befffe804ff1")
NOBODY = 65_534


def wrapped() -> bytes:
    return master_key.current().wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)


def opens(octets: bytes) -> bool:
    return master_key.current().unwrap(octets, Purpose.DEVICE_KEY, OWNER, 1) == SECRET


@contextmanager
def out_of_order(provider: Provider, settings: Settings, request: pytest.FixtureRequest) -> Iterator[None]:
    """The place of the master key cannot be reached."""
    place = provider.path if isinstance(provider, FileProvider) else request.getfixturevalue("softhsm").tokens
    away = place.with_name("away")
    place.rename(away)
    try:
        yield
    finally:
        away.rename(place)


class TestBoth:
    def test_an_empty_place_says_what_to_do(self, empty_provider: Provider) -> None:
        with pytest.raises(MasterKeyError, match="master_key init"):
            master_key.current()
        with pytest.raises(MasterKeyError, match="master_key init"):
            master_key.probe()

    def test_what_is_wrapped_opens(self, provider: Provider) -> None:
        assert opens(wrapped())
        assert master_key.probe().active_version == 1

    def test_a_second_init_changes_nothing(self, provider: Provider) -> None:
        octets = wrapped()
        with pytest.raises(MasterKeyError, match="already"):
            provider.init()
        assert opens(octets)

    def test_what_belongs_to_another_does_not_open(self, provider: Provider) -> None:
        octets = wrapped()
        for purpose, owner, epoch in (
            (Purpose.TRANSFER_KEY, OWNER, 1),
            (Purpose.DEVICE_KEY, OWNER[::-1], 1),
            (Purpose.DEVICE_KEY, OWNER, 2),
        ):
            with pytest.raises(UnwrapError, match="changed"):
                master_key.current().unwrap(octets, purpose, owner, epoch)
        for position in range(15, 77, 3):
            changed = bytearray(octets)
            changed[position] ^= 1
            with pytest.raises(UnwrapError):
                opens(bytes(changed))
        assert opens(octets)

    def test_a_new_version_wraps_and_the_old_one_opens(self, provider: Provider) -> None:
        before = wrapped()
        assert provider.add_version() == 2
        after = wrapped()
        assert (master_key.wrapped_version(before), master_key.wrapped_version(after)) == (1, 2)
        assert opens(before)
        assert opens(after)
        moved = master_key.current().rewrap(before, Purpose.DEVICE_KEY, OWNER, 1)
        assert master_key.wrapped_version(moved) == 2
        assert opens(moved)

    def test_states_and_dates(self, provider: Provider) -> None:
        provider.add_version()
        provider.add_version()
        found = provider.versions()
        assert [(one.number, one.state) for one in found] == [
            (1, MasterKeyState.DECRYPT_ONLY),
            (2, MasterKeyState.DECRYPT_ONLY),
            (3, MasterKeyState.ACTIVE),
        ]
        now = datetime.now(UTC)
        for one in found:
            assert one.created_at is not None
            assert now - timedelta(minutes=1) < one.created_at <= now
        assert [one.decrypt_only_at is not None for one in found] == [True, True, False]

    def test_keys_taken_before_open_what_a_newer_version_wrapped(self, provider: Provider) -> None:
        held = master_key.current()
        provider.add_version()
        octets = wrapped()
        assert held.unwrap(octets, Purpose.DEVICE_KEY, OWNER, 1) == SECRET

    def test_another_process_makes_a_version(self, provider: Provider) -> None:
        octets = wrapped()
        in_child(lambda: provider.add_version() == 2 and opens(octets))
        assert opens(octets)
        assert provider.fresh().active_version == 2
        assert master_key.current().active_version == 2

    def test_a_host_that_was_idle_journals_under_the_version_that_is_left(
        self, provider: Provider, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Meanwhile another host rotates, and destroys the version that this one knows: nothing is to be lost."""
        settings.KEY_JOURNAL_DIR = tmp_path / "journal"
        writing.write(JournalRecord(1, 1, "test", None))
        in_child(lambda: provider.add_version() == 2)
        if not isinstance(provider, FileProvider):  # the minute is over in which it relies on what it knows
            monkeypatch.setattr("keyvault.master_key.pkcs11.LISTED_S", 0.0)
        writing.write(JournalRecord(2, 2, "test", None))
        in_child(lambda: destroyed(provider))
        writing.write(JournalRecord(3, 3, "test", None))
        found = reading.read([settings.KEY_JOURNAL_DIR], provider.fresh(), after=1)
        assert ([record.number for record in found], found.faults) == ([2, 3], [])

    def test_another_process_destroys_a_version(self, provider: Provider) -> None:
        before = wrapped()
        provider.add_version()
        held = master_key.current()
        after = wrapped()
        in_child(lambda: destroyed(provider))
        assert opens(after)
        with pytest.raises(UnwrapError, match="no version 1"):
            opens(before)
        assert held.unwrap(after, Purpose.DEVICE_KEY, OWNER, 1) == SECRET

    def test_only_an_old_version_is_destroyed(self, provider: Provider) -> None:
        for number in (1, 2):
            with pytest.raises(MasterKeyError, match=f"version {number} is"):
                provider.destroy(number)
        provider.add_version()
        before = wrapped()
        provider.destroy(1)
        assert opens(before)
        assert provider.add_version() == 3
        assert [one.number for one in provider.versions() if one.state != MasterKeyState.DESTROYED] == [2, 3]

    def test_children_of_a_fork_and_threads(self, provider: Provider) -> None:
        octets = wrapped()
        in_child(lambda: opens(octets) and opens(wrapped()))
        wrong: list[int] = []

        def work(number: int) -> None:
            if not all(opens(octets) for _ in range(50)):
                wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        in_child(lambda: opens(octets))  # while others hold the session
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.django_db
    def test_a_failing_one_turns_readiness_red_and_comes_back(
        self, provider: Provider, settings: Settings, request: pytest.FixtureRequest, client: Client
    ) -> None:
        octets = wrapped()
        checks = {"database": "ok", "journal": "ok", "master_key": "ok"}
        assert client.get("/health/ready").json() == {"ready": True, "checks": checks}
        with out_of_order(provider, settings, request):
            answer = client.get("/health/ready")
            assert answer.status_code == 503
            assert answer.json() == {"ready": False, "checks": {**checks, "master_key": "failed"}}
            assert client.get("/health/live").status_code == 200
            assert not next(found for found in examine() if found.name == "master key").well
            with pytest.raises(MasterKeyError):
                opens(octets)
        assert opens(octets)
        assert client.get("/health/ready").status_code == 200

    @pytest.mark.django_db
    def test_without_it_verification_waits_and_no_frame_fails(
        self, provider: Provider, settings: Settings, request: pytest.FixtureRequest
    ) -> None:
        concentrator = ConcentratorFactory.create()
        devices = commission(3, concentrator)
        uplink = post(concentrator, [device.frame(0) for device in devices])
        with out_of_order(provider, settings, request), pytest.raises(TransientError):
            verification.verify(uplink.pk)
        uplink.refresh_from_db()
        assert (uplink.verified_at, uplink.attempts) == (None, 0)
        verification.verify(uplink.pk)
        uplink.refresh_from_db()
        assert (uplink.accepted, uplink.rejected) == (3, 0)


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path, settings: Settings) -> Path:
        path = tmp_path / "master.keys"
        settings.MASTER_KEY_FILE = path
        master_key.init(path)
        return path

    def test_a_write_that_fails_leaves_the_file_as_it_is(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(MasterKeyError, match="No space left"):
            master_key.provider().add_version()
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_folder_that_cannot_be_written(self, settings: Settings) -> None:
        with tempfile.TemporaryDirectory(dir="/tmp") as name:  # nobody must reach it: the run's own folder is private
            folder, path = Path(name), Path(name) / "master.keys"
            master_key.init(path)
            settings.MASTER_KEY_FILE = path
            before = path.read_bytes()
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
            folder.chmod(0o555)
            try:
                with as_nobody(), pytest.raises(MasterKeyError, match=r"cannot write .* nothing was changed"):
                    master_key.provider().add_version()
            finally:
                folder.chmod(0o755)
            assert path.read_bytes() == before

    def test_readers_never_see_half_a_file(self, path: Path) -> None:
        done = threading.Event()
        seen: set[int] = set()
        failed: list[MasterKeyError] = []

        def read() -> None:
            while not done.is_set():
                try:
                    seen.add(master_key.load(path).active_version)
                except MasterKeyError as error:
                    failed.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(30):
            master_key.provider().add_version()
        done.set()
        reader.join()
        assert not failed
        assert len(seen) > 1

    def test_mode_and_owner_stay(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        owner = path.stat().st_uid
        master_key.provider().add_version()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == owner

    def test_a_link_to_the_file_stays_a_link(self, path: Path, settings: Settings) -> None:
        link = path.with_name("link")
        link.symlink_to(path)
        settings.MASTER_KEY_FILE = link
        master_key.provider().add_version()
        assert link.is_symlink()
        assert master_key.load(path).active_version == 2

    def test_a_destroyed_version_keeps_its_number_and_dates_only(self, path: Path) -> None:
        key = json.loads(path.read_text())["versions"][0]["key"]
        master_key.provider().add_version()
        master_key.provider().destroy(1)
        assert key not in path.read_text()
        destroyed = master_key.provider().versions()[0]
        assert (destroyed.number, destroyed.state) == (1, MasterKeyState.DESTROYED)
        assert destroyed.created_at
        assert destroyed.decrypt_only_at
        assert destroyed.destroyed_at
        assert master_key.load(path).versions == [2]


class TestToken:
    def test_the_key_cannot_be_taken_out(self, token: SoftHsm, settings: Settings) -> None:
        import pkcs11  # noqa: PLC0415 - installed for those who have an HSM only

        master_key.provider().init()
        session = pkcs11.lib(token.library).get_token(token_label=settings.PKCS11_TOKEN).open()  # logged in already
        (key,) = session.get_objects({pkcs11.Attribute.LABEL: "ami-headend master 1"})
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]
        assert not key[pkcs11.Attribute.EXTRACTABLE]
        session.close()

    def test_a_key_that_could_be_taken_out_is_refused(self, token: SoftHsm, settings: Settings) -> None:
        import pkcs11  # noqa: PLC0415 - installed for those who have an HSM only

        master_key.provider().init()
        session = pkcs11.lib(token.library).get_token(token_label=settings.PKCS11_TOKEN).open(rw=True)
        template = {pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False}
        session.generate_key(pkcs11.KeyType.AES, 256, label="ami-headend master 2", store=True, template=template)
        session.generate_key(pkcs11.KeyType.AES, 256, label="somebody else's", store=True, template=template)
        session.close()
        with pytest.raises(MasterKeyError, match="extractable"):
            master_key.probe()

    def test_a_wrong_pin_is_tried_once(self, token: SoftHsm) -> None:
        master_key.provider().init()
        token.pin_file.write_text("0000")
        try:
            other = master_key._provider.__wrapped__(*place())  # past the cache, as in another process
            with pytest.raises(MasterKeyError, match="refuses the PIN"):
                other.current()
            for _ in range(20):  # a token would lock
                with pytest.raises(MasterKeyError, match="not tried again"):
                    other.current()
        finally:
            token.pin_file.write_text(PIN)
        assert other.current().active_version == 1

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("PKCS11_MODULE", "/nowhere/lib.so", "cannot open shared object"),
            ("PKCS11_TOKEN", "another", "No token matching"),
            ("PKCS11_PIN_FILE", "/nowhere/pin", "cannot read PKCS11_PIN_FILE"),
        ],
    )
    def test_what_is_not_there_is_named(
        self, token: SoftHsm, settings: Settings, name: str, value: str, said: str
    ) -> None:
        setattr(settings, name, value)
        with pytest.raises(MasterKeyError, match=said):
            master_key.probe()

    def test_a_pin_that_others_may_read(self, token: SoftHsm) -> None:
        token.pin_file.chmod(0o640)
        try:
            with pytest.raises(MasterKeyError, match="chmod 600"):
                master_key.probe()
        finally:
            token.pin_file.chmod(0o600)


def test_an_unknown_provider_is_refused(settings: Settings) -> None:
    settings.MASTER_KEY_PROVIDER = "vault"
    with pytest.raises(MasterKeyError, match="must be one of file, pkcs11"):
        master_key.current()


def destroyed(provider: Provider) -> bool:
    provider.destroy(1)
    return True


def place() -> tuple[Any, ...]:
    from django.conf import settings  # noqa: PLC0415 - the settings as a test left them

    return (
        settings.MASTER_KEY_PROVIDER,
        Path(settings.MASTER_KEY_FILE),
        settings.PKCS11_MODULE,
        settings.PKCS11_TOKEN,
        settings.PKCS11_PIN_FILE,
    )


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, whom no mode keeps out."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if before == 0:
            os.seteuid(before)


def in_child(act: Callable[[], bool]) -> None:
    """`act` is true in a child of a fork, as a prefork worker is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if act() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
