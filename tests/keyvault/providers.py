"""Places for a master key: a file, and a token of SoftHSM2 where that is installed. Fixtures for every test."""

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_django import Settings

if TYPE_CHECKING:
    from keyvault.master_key import Provider

PIN = "2468"
_LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
_numbers = itertools.count(1)


@dataclass
class SoftHsm:
    """SoftHSM2 with tokens in a folder of its own."""

    library: str
    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "softhsm2.conf"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    def new_token(self) -> str:
        """An empty token; gives its label."""
        label = f"ami-{next(_numbers)}"
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "13579"]
        subprocess.run(command, check=True, capture_output=True)
        return label

    def environ(self, label: str) -> dict[str, str]:
        """What another process needs to use a token."""
        return {
            "SOFTHSM2_CONF": str(self.conf),
            "MASTER_KEY_PROVIDER": "pkcs11",
            "PKCS11_MODULE": self.library,
            "PKCS11_TOKEN": label,
            "PKCS11_PIN_FILE": str(self.pin_file),
        }

    def use(self, settings: Settings, label: str) -> None:
        """Make a token the place of this process."""
        for name, value in self.environ(label).items():
            if name != "SOFTHSM2_CONF":
                setattr(settings, name, value)


@pytest.fixture(scope="session")
def softhsm() -> Iterator[SoftHsm]:
    """SoftHSM2; tests that need it are left out where it is not installed."""
    library = next((path for path in _LIBRARIES if Path(path).exists()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed (Debian, Ubuntu: apt install softhsm2): the HSM is not tested")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: the HSM is not tested")
    with tempfile.TemporaryDirectory(prefix="ami-headend-hsm-") as name, pytest.MonkeyPatch.context() as patch:
        hsm = SoftHsm(library, Path(name))
        hsm.tokens.mkdir()
        hsm.conf.write_text(f"directories.tokendir = {hsm.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        hsm.pin_file.touch(0o600)
        hsm.pin_file.write_text(PIN + "\n")
        patch.setenv("SOFTHSM2_CONF", str(hsm.conf))
        yield hsm


@pytest.fixture
def token(softhsm: SoftHsm, settings: Settings) -> SoftHsm:
    """A new, empty token as the master key's place."""
    softhsm.use(settings, softhsm.new_token())
    return softhsm


@pytest.fixture(params=["file", "pkcs11"])
def empty_provider(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> "Provider":
    """A master key's place with nothing in it: a file, then a token."""
    from keyvault import master_key  # noqa: PLC0415 - this module loads before Django is set up

    if request.param == "pkcs11":
        request.getfixturevalue("token")
    else:
        settings.MASTER_KEY_FILE = tmp_path / "var" / "master.keys"
    return master_key.provider()


@pytest.fixture
def provider(empty_provider: "Provider") -> "Provider":
    """A master key with version 1, in a file, then on a token."""
    empty_provider.init()
    return empty_provider
