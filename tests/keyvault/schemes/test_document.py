"""The examples of docs/schemes.md run as they stand, and give the frames that this code reads."""

import re
from pathlib import Path
from typing import Any

from keyvault.schemes.table import ENVELOPES, SCHEMES, algorithms_of
from tests.keyvault.schemes.forms import PAYLOAD, SAMPLES

PAGE = (Path(__file__).parents[3] / "docs" / "schemes.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_run_and_their_frames_open() -> None:
    names: dict[str, Any] = {}
    opened = {}
    for block in BLOCKS:
        exec(compile(block, "docs/schemes.md", "exec"), names)  # noqa: S102 - our own page
        frame = names.get("frame")
        for sample in SAMPLES.values():
            envelope = ENVELOPES.of(frame) if frame else None
            if frame and envelope is not None and envelope.name == sample.envelope:
                parsed = sample.parse(frame)
                if parsed.alg == sample.alg and "concentrator" not in block:
                    opened[sample.envelope] = sample.cipher.open_(parsed)
    assert names["PAYLOAD"] == PAYLOAD
    assert opened == dict.fromkeys(("ccm", "session", "mac", "sealed"), PAYLOAD)


def test_numbers_and_algorithms_of_the_table_are_those_of_the_code() -> None:
    for scheme in SCHEMES:
        if scheme.number is not None:
            algorithms = ", ".join(map(str, algorithms_of(scheme.name)))
            assert f"| `{scheme.name}` | {scheme.number} | {algorithms} |" in PAGE


def test_what_a_frame_costs_is_what_it_costs() -> None:
    costs = {name: len(sample.seal(0x61A7, PAYLOAD)) - len(PAYLOAD) for name, sample in SAMPLES.items()}
    assert (costs["ccm 10"], costs["session 10"], costs["mac 4"], costs["mac 5"], costs["sealed"]) == (
        33,
        48,
        34,
        59,
        80,
    )
