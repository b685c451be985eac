"""The reference meter in C: every known answer and every power cut, where there is a C compiler."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from django.conf import settings

FOLDER = Path(settings.BASE_DIR) / "docs" / "reference-meter"
COMPILER = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)

pytestmark = pytest.mark.skipif(
    COMPILER is None or shutil.which("make") is None,
    reason="the reference meter needs make and a C compiler (Debian: apt install make gcc)",
)

# Mistakes that a firmware team could make, each of which has to be noticed: file, right, wrong, what is said of it.
MISTAKES = {
    "the key is put into use before it is stored": (
        "meter.c",
        "if (!cell_store(CELL_KEYS + place, body, sizeof body)) return 0;",
        "reserve(m, key->epoch, RESERVE_AHEAD); if (!cell_store(CELL_KEYS + place, body, sizeof body)) return 0;",
        "does not boot after a cut",
    ),
    "counters go back at boot": (
        "meter.c",
        "m->counter = m->reserved = get_number(body + 2, 6);",
        "m->reserved = get_number(body + 2, 6), m->counter = m->reserved > 255 ? m->reserved - 256 : 0;",
        "two frames under one counter",
    ),
    "a session of the boot before": (
        "meter.c",
        "put_number(boots, get_number(boots, 4) + 1, 4);",
        "put_number(boots, 1, 4);",
        "WRONG",
    ),
    "an older command is taken": ("command.c", "if (opened.counter < last->counter) return;", "", "an-older-one"),
    "the record before the deed": (
        "command.c",
        "said = execute(m, &order, opened.epoch);",
        """next.is_known = 1, next.epoch = opened.epoch, next.counter = opened.counter;
    next.number = order.items[1].value; store_taken(m, &next); said = execute(m, &order, opened.epoch);""",
        "does not end under its last key",
    ),
}


UNTOLD = ("calibration-4000", "x25519-public")  # the second is X25519 of the base point


def build(folder: Path, source: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    vectors = FOLDER.parent / "vectors.json"
    command = ["make", "check", f"BUILD={folder}", f"VECTORS={vectors}", f"CC={COMPILER}"]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=240, check=False)


def test_every_known_answer_and_every_power_cut(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    assert "0 frames" not in done.stdout.split()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_would_notice(tmp_path: Path, mistake: str) -> None:
    name, right, wrong, says = MISTAKES[mistake]
    source = tmp_path / "source"
    shutil.copytree(FOLDER, source, ignore=shutil.ignore_patterns("build"))
    code = (source / name).read_text()
    assert code.count(right) == 1
    (source / name).write_text(code.replace(right, wrong))
    done = build(tmp_path / "build", source)
    assert done.returncode != 0
    assert says in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_table_of_costs_says_what_was_counted() -> None:
    figures = json.loads((FOLDER / "m0.json").read_text())
    table = (FOLDER.parent / "schemes.md").read_text().split("## What it costs a small meter")[1].split("\n## ")[0]
    shown = ["ccm-frame", "ccm-256-frame", "session-frame", "mac-64-frame", "mac-256-frame", "ccm-derive"]
    shown += ["session-derive", "mac-64-derive", "command-open", "aes-128-block", "aes-256-block", "sha-256-block"]
    numbers = [figures["instructions"][name] for name in shown]
    numbers += [figures["flash_octets"]["meter"], *(figures["ram_octets"][name] for name in ("stack", "struct-meter"))]
    curves = json.loads((FOLDER / "asymmetric.json").read_text())
    numbers += [count for name, count in curves["instructions"].items() if name not in UNTOLD]
    numbers += [*curves["flash_octets"].values(), curves["ram_octets"]["stack"]]
    for number in numbers:
        assert f"{number:,}" in table, f"docs/schemes.md does not say {number:,}"


CORTEX_M0 = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")


@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in CORTEX_M0),
    reason="a Cortex-M0 needs gcc-arm-none-eabi and qemu-system-arm (Debian packages of these names)",
)
def test_every_known_answer_on_a_cortex_m0(tmp_path: Path) -> None:
    vectors = FOLDER.parent / "vectors.json"
    command = ["make", "m0", f"BUILD={tmp_path}", f"VECTORS={vectors}"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found, written = (json.loads((folder / "m0.json").read_text()) for folder in (tmp_path, FOLDER))
    assert abs(found["instructions"]["calibration-4000"] - 4000) <= 10
    if found["compiler"] == written["compiler"]:
        assert found == written, "cp docs/reference-meter/build/m0.json docs/reference-meter/"


@pytest.mark.skipif(
    "MONOCYPHER" not in os.environ or any(shutil.which(tool) is None for tool in CORTEX_M0),
    reason="MONOCYPHER names no folder with the source of Monocypher (make asymmetric fetches it), or tools lack",
)
def test_asymmetric_primitives_on_a_cortex_m0(tmp_path: Path) -> None:
    command = ["make", "asymmetric", f"BUILD={tmp_path}"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found, written = (json.loads((folder / "asymmetric.json").read_text()) for folder in (tmp_path, FOLDER))
    if found["compiler"] == written["compiler"]:
        assert found == written, "cp docs/reference-meter/build/asymmetric.json docs/reference-meter/"
