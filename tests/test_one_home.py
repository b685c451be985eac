"""Facts that every part of the head-end must agree on stand in one place, and everybody else asks there."""

import re
from pathlib import Path

import pytest
from django.conf import settings

# What must be written nowhere else, as it would be written, and where it stands.
_HOMES = {
    "the register of the load profile": (r'"1-0:1\.29\.0"', "meters/readings/obis.py"),
    "numbers of advisory locks": (r"0x616D69", "ami_headend/core/locks.py"),
    "the length of a secret that is wrapped": (r"\bSECRET_OCTETS = 32", "keyvault/master_key/secret_wrapping.py"),
    "when one posted last": (r"received_at DESC LIMIT 1\)|\"-received_at\"\)\.values", "concentrators/fleet/health.py"),
    "when a concentrator is silent": (r"received_at, c\.created_at\) <", "concentrators/fleet/health.py"),
    "how long one may be silent": (r"condition=Condition\.SILENT_CONCENTRATOR", "ami_headend/alerts/silence.py"),
    "when a device was heard last": (
        r"max\(n\.heard_at|Max\(\"heard_at|n\.heard_at >= ",
        "keyvault/device_keys/last_heard.py",
    ),
    "which keys are worn": (r"\b[cn]\.highest >= %s|HIGHEST\} >= %s", "keyvault/device_keys/epochs.py"),
    "which counter a device counts by": (r"ORDER BY s\.context DESC LIMIT 1", "keyvault/device_keys/last_heard.py"),
    "which rows follow a page's last": (
        r"\}\) (\{'<'|[<>] \()|\(\w+, id\) [<>] \(%s",
        "ami_headend/core/keyset.py",
    ),
    "which value of a column occurs twice": (r"is already in line \{", "ami_headend/core/csv_tables.py"),
    "which assignments hold": (r"Q\(valid_to__gt=\w+\), valid_from__lte", "concentrators/fleet/assignments.py"),
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
