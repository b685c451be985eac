"""The file of all vectors, ``docs/vectors.json``."""

import json
from collections.abc import Callable
from typing import Any

from concentrators.vectors import commands, frames, masked, others, payloads, signed, states
from concentrators.vectors.material import Vectors, written

FORM = 1  # goes up when a field changes its meaning
MAKERS: tuple[Callable[[], Vectors], ...] = (
    others.make_device_keys,
    frames.make,
    payloads.make,
    states.make,
    signed.make,
    masked.make,
    others.make_hop,
    others.make_enrolment,
    commands.make,
)


def vectors() -> list[dict[str, Any]]:
    """All vectors, octets in hexadecimal; ValueError (the maker's mistake) where two have one id."""
    found = [written(one) for make in MAKERS for one in make()]
    ids = [one["id"] for one in found]
    twice = {one for one in ids if ids.count(one) > 1}
    if twice:
        raise ValueError(f"two vectors have one id: {', '.join(sorted(twice))}")
    return found


def text() -> str:
    """The whole file, a vector a line."""
    head = {"form": FORM, "made_by": "manage.py vectors", "described_in": "docs/vectors.md"}
    lines = ",\n".join(json.dumps(one, separators=(", ", ": ")) for one in vectors())
    return json.dumps(head)[:-1] + ', "vectors": [\n' + lines + "\n]}\n"
