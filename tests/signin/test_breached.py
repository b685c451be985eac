"""A list of stolen passwords, searched by halving."""

import hashlib
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from ami_headend.signin.breached import BreachedPasswordValidator, stands_in


def line(password: str, count: int = 1) -> str:
    return f"{hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper()}:{count}\r\n"


def written(folder: Path, passwords: set[str]) -> Path:
    path = folder / "pwned.txt"
    path.write_bytes("".join(sorted(line(one, 10 ** (len(one) % 5)) for one in passwords)).encode())
    return path


@given(st.sets(st.text(st.characters(codec="utf-8"), max_size=8), max_size=40), st.text(max_size=3))
def test_exactly_what_stands_there_is_found(
    tmp_path_factory: pytest.TempPathFactory, passwords: set[str], other: str
) -> None:
    path = written(tmp_path_factory.mktemp("list"), passwords)
    assert all(stands_in(path, one) for one in passwords)
    assert stands_in(path, other) == (other in passwords)


def test_a_stolen_password_is_refused(settings: Settings, tmp_path: Path) -> None:
    validator = BreachedPasswordValidator()
    validator.validate("correct horse battery")
    settings.BREACHED_PASSWORDS_FILE = str(written(tmp_path, {"correct horse battery", "another"}))
    with pytest.raises(ValidationError, match="stolen"):
        validator.validate("correct horse battery")
    validator.validate("correct horse battery staple")
