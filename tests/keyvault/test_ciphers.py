"""Device ciphers kept per process: bounded, and never older than the key row."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from keyvault import ciphers, master_key
from keyvault.ciphers import KeptCiphers, KeyRow
from keyvault.cose.structures import make_kid, parse_frame
from keyvault.device_keys import key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.master_key import MasterKeyError
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.lines import Cipher, OpenedKey
from keyvault.schemes.table import ENVELOPES
from tests.builders import seal_frame

pytestmark = pytest.mark.django_db

TITLES = [(0x0024_BEFF_FE30_0000 + n).to_bytes(8, "big") for n in range(12)]


@pytest.fixture
def kept() -> KeptCiphers:
    return KeptCiphers()


@pytest.fixture
def made() -> Iterator[list[bytes]]:
    """System titles of the ciphers that were made, in order."""
    titles: list[bytes] = []
    envelope = ENVELOPES["ccm"]

    def noting(key: OpenedKey) -> Cipher:
        titles.append(key.system_title)
        return envelope.cipher(key)

    with ENVELOPES.including(envelope._replace(cipher=noting)):
        yield titles


def provisioned(titles: list[bytes]) -> dict[bytes, bytes]:
    keys = {title: secrets.token_bytes(32) for title in titles}
    provisioning.provision_stored([NewKey(title, 1, key) for title, key in keys.items()])
    return keys


def rows(titles: list[bytes]) -> dict[bytes, KeyRow]:
    found = DeviceKey.objects.filter(system_title__in=titles, epoch=1)
    return {
        make_kid(bytes(key.system_title), 1): ciphers.key_row(key.pk, key.version, key.state, key.algorithm, key.scheme)
        for key in found
    }


def test_they_open_what_the_meters_sealed(kept: KeptCiphers) -> None:
    keys = provisioned(TITLES)
    found = kept.of(rows(TITLES))
    for title, key in keys.items():
        octets = seal_frame(title, 1, key, 5, title)
        assert found[make_kid(title, 1)].open_(parse_frame(octets)) == title


def test_they_are_made_once(kept: KeptCiphers, made: list[bytes]) -> None:
    provisioned(TITLES)
    first = kept.of(rows(TITLES[:5]))
    again = kept.of(rows(TITLES))
    assert sorted(made) == TITLES
    assert all(again[kid] is cipher for kid, cipher in first.items())
    assert kept.of({}) == {}


def test_a_row_that_changed_makes_another(kept: KeptCiphers, made: list[bytes]) -> None:
    provisioned(TITLES[:2])
    before = rows(TITLES[:2])
    first = kept.of(before)
    key_rows.set_key_state([before[make_kid(TITLES[0], 1)][0]], KeyState.RETIRING)
    second = kept.of(rows(TITLES[:2]))
    assert made[2:] == TITLES[:1]
    changed, same = (make_kid(title, 1) for title in TITLES[:2])
    assert first[changed] is not second[changed]
    assert first[same] is second[same]


def test_a_row_that_changed_while_it_was_read_is_not_kept(kept: KeptCiphers, made: list[bytes]) -> None:
    provisioned(TITLES[:1])
    ((kid, row),) = rows(TITLES[:1]).items()
    stale = {kid: row._replace(version=row.version - 1)}
    kept.of(stale)
    kept.of(stale)
    assert made == [TITLES[0]] * 2


def test_the_cache_is_bounded_and_keeps_what_is_used(kept: KeptCiphers, made: list[bytes], settings: Settings) -> None:
    settings.DEVICE_CIPHER_CACHE_SIZE = 2
    provisioned(TITLES)
    for title in TITLES:
        kept.of(rows([TITLES[0]]))
        kept.of(rows([title]))
        assert len(kept) <= 4 + 1
    assert made == TITLES  # the first, used all the time, was made once
    kept.of(rows([TITLES[1]]))
    assert made == [*TITLES, TITLES[1]]


def test_a_row_of_another_device_is_left_out_and_costs_no_other(
    kept: KeptCiphers, caplog: pytest.LogCaptureFixture
) -> None:
    keys = provisioned(TITLES)
    victim = DeviceKey.objects.get(system_title=TITLES[0])
    victim.wrapped = DeviceKey.objects.get(system_title=TITLES[1]).wrapped
    victim.save()
    found = kept.of(rows(TITLES))
    assert set(found) == {make_kid(title, 1) for title in TITLES[1:]}
    assert TITLES[0].hex() in caplog.text
    assert not [key for key in keys.values() if key.hex() in caplog.text]


def test_a_foreign_master_key_is_the_administrators_to_mend(
    kept: KeptCiphers, settings: Settings, tmp_path: Path
) -> None:
    provisioned(TITLES)
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    master_key.init(settings.MASTER_KEY_FILE)
    with pytest.raises(MasterKeyError):
        kept.of(rows(TITLES))
