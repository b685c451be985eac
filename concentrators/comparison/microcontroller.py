"""What a frame costs on a Cortex-M0+: instructions of the reference meter's C code, and published cycles of X25519.

The reference meter's own figures (docs/reference-meter/m0.json) are instructions that an emulator counted. It has no
asymmetric code: X25519 is told in cycles of a Cortex-M0, as published.
"""

import json
from pathlib import Path
from typing import NamedTuple

from concentrators.comparison.primitives import Work

X25519_CYCLES = 3_589_850
X25519_SOURCE = (
    "Düll, Haase, Hinterwälder, Hutter, Paar, Sánchez, Schwabe: High-speed Curve25519 on 8-bit, 16-bit, and 32-bit "
    "microcontrollers (Designs, Codes and Cryptography 77, 2015): a Cortex-M0, in assembly"
)
_UNTOLD = ("ghash", "sha512_blocks", "scalar_multiplications", "modular_multiplications")


class OnCortexM0(NamedTuple):
    """Instructions of AES and SHA-256, cycles of X25519, and whether the work has more that nothing was counted for."""

    instructions: int
    x25519_cycles: int
    has_more: bool


class Figures(NamedTuple):
    """Instructions of one block of AES-128 and of SHA-256, and of whole frames, as counted."""

    aes_block: int
    sha256_block: int
    frames: dict[str, int]

    def of(self, work: Work) -> OnCortexM0:
        instructions = work.aes_blocks * self.aes_block + work.sha256_blocks * self.sha256_block
        has_more = any(work.counts[name] for name in _UNTOLD)
        return OnCortexM0(instructions, work.x25519 * X25519_CYCLES, has_more)


def read(file: Path) -> Figures | None:
    """The figures of the reference meter; None where its file is not there, as in an installed package."""
    if not file.is_file():
        return None
    counted = json.loads(file.read_text())["instructions"]
    frames = {name.removesuffix("-frame"): count for name, count in counted.items() if name.endswith("-frame")}
    return Figures(counted["aes-128-block"], counted["sha-256-block"], frames)
