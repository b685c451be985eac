"""What a frame costs on a Cortex-M0+: instructions of C code, which an emulator counted.

AES and SHA-256 are the reference meter's own (docs/reference-meter/m0.json); curves are those of a free library
(docs/reference-meter/asymmetric.json), SHA-512 and GHASH were written for that count.
"""

import json
from pathlib import Path
from typing import NamedTuple

from concentrators.comparison.primitives import Work

FIGURES = Path("docs") / "reference-meter" / "m0.json"  # in the folder of the project
_ASYMMETRIC = "asymmetric.json"
_COUNTED = {
    "aes_blocks": "aes-128-block",
    "sha256_blocks": "sha-256-block",
    "ghash": "ghash-multiply",
    "sha512_blocks": "sha-512-block",
    "x25519": "x25519",
    "scalar_multiplications": "scalar-multiplication-base",
    "modular_multiplications": "scalar-multiply-modulo-order",
}


class Figures(NamedTuple):
    """Instructions of each primitive, by its name in ``Work``, and of whole frames, as counted."""

    primitives: dict[str, int]
    frames: dict[str, int]

    def of(self, work: Work) -> int:
        """Instructions of all primitives of some work."""
        return sum(count * self.primitives[name] for name, count in work.counts.items())


def read(file: Path) -> Figures | None:
    """The figures of the reference meter, and of asymmetric primitives from the file beside it.

    None where they are not there, as in an installed package.
    """
    beside = file.with_name(_ASYMMETRIC)
    if not file.is_file() or not beside.is_file():
        return None
    own, curves = (json.loads(one.read_text())["instructions"] for one in (file, beside))
    counted = curves | own
    frames = {name.removesuffix("-frame"): count for name, count in own.items() if name.endswith("-frame")}
    return Figures({name: counted[figure] for name, figure in _COUNTED.items()}, frames)
