"""The master key file and the wrapping of secrets under it: what opens, and all that must not."""

import base64
import copy
import json
import os
import pickle
import secrets
import stat
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from keyvault import master_key
from keyvault.master_key import MasterKeyError, MasterKeys, Purpose, UnwrapError

SECRET = bytes(range(32))
OWNER = bytes.fromhex("0024befffe804ff1")
Versions = dict[int, tuple[str, bytes]]


def write(path: Path, versions: Versions) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [
        {
            "version": version,
            "state": state,
            "created_at": "2026-01-01T00:00:00+00:00",
            "key": base64.b64encode(key).decode(),
        }
        for version, (state, key) in versions.items()
    ]
    path.touch(0o600)
    path.write_text(json.dumps({"versions": rows}))


def loaded(folder: Path, versions: Versions) -> MasterKeys:
    path = folder / f"{secrets.token_hex(8)}.keys"
    write(path, versions)
    return master_key.load(path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> MasterKeys:
    versions = {1: ("decrypt_only", b"\x01" * 32), 7: ("active", b"\x07" * 32)}
    return loaded(tmp_path_factory.mktemp("keys"), versions)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "master.keys"


class TestInit:
    def test_the_file_is_ours_alone_and_opens_what_it_wraps(self, path: Path) -> None:
        assert master_key.init(path) == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        row = json.loads(path.read_text())["versions"][0]
        assert (row["version"], row["state"], len(base64.b64decode(row["key"]))) == (1, "active", 32)
        wrapped = master_key.load(path).wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)
        assert master_key.load(path).unwrap(wrapped, Purpose.DEVICE_KEY, OWNER, 1) == SECRET

    def test_whatever_the_umask_the_mode_is_0600(self, path: Path) -> None:
        before = os.umask(0)
        try:
            master_key.init(path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_two_files_have_two_keys(self, tmp_path: Path) -> None:
        master_key.init(tmp_path / "a")
        master_key.init(tmp_path / "b")
        wrapped = master_key.load(tmp_path / "a").wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)
        with pytest.raises(UnwrapError, match="master key is another's"):
            master_key.load(tmp_path / "b").unwrap(wrapped, Purpose.DEVICE_KEY, OWNER, 1)

    def test_it_never_overwrites(self, path: Path) -> None:
        master_key.init(path)
        before = path.read_bytes()
        with pytest.raises(MasterKeyError, match="exists already"):
            master_key.init(path)
        assert path.read_bytes() == before

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(MasterKeyError, match="cannot make"):
            master_key.init(tmp_path / "file" / "master.keys")


class TestLoad:
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777, 0o601])
    def test_a_file_that_others_may_use(self, path: Path, mode: int) -> None:
        master_key.init(path)
        path.chmod(mode)
        with pytest.raises(MasterKeyError, match=f"mode {mode:04o}.*chmod 600"):
            master_key.load(path)

    @pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
    def test_a_file_of_our_own(self, path: Path, mode: int) -> None:
        master_key.init(path)
        path.chmod(mode)
        assert master_key.load(path).active_version == 1

    def test_no_file(self, path: Path) -> None:
        with pytest.raises(MasterKeyError, match="there is no master key file"):
            master_key.load(path)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(MasterKeyError, match="cannot read"):
            master_key.load(tmp_path)

    def test_every_half_of_a_file(self, path: Path) -> None:
        master_key.init(path)
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(MasterKeyError):
                master_key.load(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"\xff\x00",
            b"[]",
            b"{}",
            b'"text"',
            b"null",
            b'{"versions": {}}',
            b'{"versions": []}',
            b'{"versions": [1]}',
            b'{"versions": [{"version": 1, "state": "active"}]}',
            b'{"versions": [{"version": "x", "state": "active", "key": "AAAA"}]}',
            b"-----BEGIN PRIVATE KEY-----\n",
        ],
    )
    def test_a_foreign_file(self, path: Path, content: bytes) -> None:
        path.parent.mkdir()
        path.touch(0o600)
        path.write_bytes(content)
        with pytest.raises(MasterKeyError):
            master_key.load(path)

    @pytest.mark.parametrize(
        "versions",
        [
            {1: ("active", bytes(31))},
            {1: ("active", bytes(16))},
            {1: ("active", bytes(33))},
            {1: ("active", b"")},
            {1: ("decrypt_only", bytes(32))},
            {1: ("active", bytes(32)), 2: ("active", bytes(32))},
            {1: ("active", bytes(32)), 2: ("decrypt_only", bytes(31))},
        ],
    )
    def test_keys_that_cannot_be_used(self, path: Path, versions: Versions) -> None:
        write(path, versions)
        with pytest.raises(MasterKeyError) as raised:
            master_key.load(path)
        assert "AAAA" not in str(raised.value)

    def test_one_version_wraps_and_all_open(self, tmp_path: Path) -> None:
        both = loaded(tmp_path, {1: ("decrypt_only", bytes(32)), 2: ("active", bytes(range(32)))})
        assert both.active_version == 2
        old = loaded(tmp_path, {1: ("active", bytes(32))}).wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)
        assert both.unwrap(old, Purpose.DEVICE_KEY, OWNER, 1) == SECRET
        assert both.wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)[8:12] == b"\x00\x00\x00\x02"

    def test_the_current_one_is_read_again_when_the_file_changes(self, path: Path, settings: Settings) -> None:
        settings.MASTER_KEY_FILE = path
        with pytest.raises(MasterKeyError, match="there is no master key file"):
            master_key.current()
        master_key.init(path)
        first = master_key.current()
        assert master_key.current() is first
        path.unlink()
        write(path, {1: ("decrypt_only", bytes(32)), 9: ("active", bytes(32))})
        assert master_key.current().active_version == 9


class TestWrapping:
    def test_the_form_is_cose_encrypt0_with_a256gcm(self, keys: MasterKeys) -> None:
        """RFC 9053 section 4.1, opened here by hand."""
        wrapped = keys.wrap(SECRET, Purpose.FLEET_KEY, b"a fleet", 0)
        item = cbor2.loads(wrapped)
        assert (len(wrapped), item.tag) == (77, 16)
        protected, unprotected, ciphertext = item.value
        assert cbor2.loads(protected) == {1: 3, 4: (7).to_bytes(4, "big")}
        aad = cbor2.dumps(["Encrypt0", protected, cbor2.dumps(["fleet key", b"a fleet", 0])])
        assert set(unprotected) == {5}
        assert AESGCM(b"\x07" * 32).decrypt(unprotected[5], ciphertext, aad) == SECRET

    def test_no_two_are_alike(self, keys: MasterKeys) -> None:
        assert len({keys.wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1) for _ in range(100)}) == 100

    @pytest.mark.parametrize(
        "other",
        [
            (Purpose.TRANSFER_KEY, OWNER, 1),
            (Purpose.FLEET_KEY, OWNER, 1),
            (Purpose.DEVICE_KEY, OWNER[:-1] + b"\x00", 1),
            (Purpose.DEVICE_KEY, OWNER[:-1], 1),
            (Purpose.DEVICE_KEY, OWNER, 0),
            (Purpose.DEVICE_KEY, OWNER, 2),
            (Purpose.DEVICE_KEY, OWNER, 257),
        ],
    )
    def test_it_is_bound_to_purpose_owner_and_epoch(self, keys: MasterKeys, other: tuple[Purpose, bytes, int]) -> None:
        wrapped = keys.wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)
        with pytest.raises(UnwrapError):
            keys.unwrap(wrapped, *other)

    @given(position=st.integers(0, 76), bit=st.integers(0, 7))
    def test_no_bit_may_flip(self, keys: MasterKeys, position: int, bit: int) -> None:
        wrapped = bytearray(keys.wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1))
        wrapped[position] ^= 1 << bit
        with pytest.raises(UnwrapError):
            keys.unwrap(bytes(wrapped), Purpose.DEVICE_KEY, OWNER, 1)

    @given(octets=st.binary(max_size=100))
    def test_no_other_octets_open(self, keys: MasterKeys, octets: bytes) -> None:
        with pytest.raises(UnwrapError):
            keys.unwrap(octets, Purpose.DEVICE_KEY, OWNER, 1)

    def test_a_version_that_the_file_has_not(self, keys: MasterKeys, tmp_path: Path) -> None:
        wrapped = keys.wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)
        other = loaded(tmp_path, {1: ("active", b"\x01" * 32)})
        with pytest.raises(UnwrapError, match="no version 7"):
            other.unwrap(wrapped, Purpose.DEVICE_KEY, OWNER, 1)

    def test_a_version_changed_in_the_row_does_not_open(self, keys: MasterKeys, tmp_path: Path) -> None:
        wrapped = keys.wrap(SECRET, Purpose.DEVICE_KEY, OWNER, 1)
        same_key = loaded(tmp_path, {1: ("active", b"\x07" * 32)})
        with pytest.raises(UnwrapError):
            same_key.unwrap(wrapped[:8] + b"\x00\x00\x00\x01" + wrapped[12:], Purpose.DEVICE_KEY, OWNER, 1)

    @pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
    def test_a_secret_of_another_length(self, keys: MasterKeys, length: int) -> None:
        with pytest.raises(ValueError, match="32 octets"):
            keys.wrap(bytes(length), Purpose.DEVICE_KEY, OWNER, 1)


class TestNothingLeaks:
    @pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda act: act.__name__)
    def test_no_pickle_and_no_copy(self, keys: MasterKeys, act: Any) -> None:
        with pytest.raises(TypeError, match="never pickled"):
            act(keys)

    def test_nothing_to_print(self, keys: MasterKeys) -> None:
        key = b"\x07" * 32
        shown = f"{keys!r} {keys} {keys.__reduce_ex__!r} {dir(keys)} {keys._aeads!r}"
        for form in (key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1]):
            assert form not in shown
        assert not hasattr(keys, "__dict__")

    def test_errors_name_no_key(self, path: Path) -> None:
        master_key.init(path)
        key = json.loads(path.read_text())["versions"][0]["key"]
        whole = path.read_text()
        for text in (whole + "x", whole.replace('"active"', '"other"'), whole.replace(key, key[:-8])):
            path.write_text(text)
            with pytest.raises(MasterKeyError) as raised:
                master_key.load(path)
            assert key[:20] not in str(raised.value)
            assert raised.value.__suppress_context__ or raised.value.__context__ is None
