"""Facts that every part of the head-end must agree on stand in one place, and everybody else asks there."""

import re
from pathlib import Path

import pytest
from django.conf import settings

# What must be written nowhere else, as it would be written, and where it stands.
_HOMES = {
    "the register of the load profile": (r'"1-0:1\.29\.0"', "meters/readings/obis.py"),
    "numbers of advisory locks": (r"0x616D69", "ami_headend/core/locks.py"),
}
APPS = ("ami_headend", "concentrators", "meters", "keyvault")


def production() -> dict[str, str]:
    """The text of every module by its path, without migrations."""
    root = Path(settings.BASE_DIR)
    paths = [path for app in APPS for path in (root / app).rglob("*.py") if "migrations" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_text() for path in paths}


@pytest.mark.parametrize("fact", _HOMES)
def test_a_fact_has_one_home(fact: str) -> None:
    pattern, home = _HOMES[fact]
    found = {path for path, text in production().items() if re.search(pattern, text)}
    assert found == {home}
