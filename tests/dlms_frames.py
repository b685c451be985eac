"""The frames of ``dlms_frames.json``: oracles from other hands. The file says where each came from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text())
REAL: dict[str, dict[str, Any]] = {one["id"]: one for one in DATA["real"]}
SYNTHETIC: dict[str, dict[str, Any]] = {one["id"].removeprefix("syn_shared_"): one for one in DATA["synthetic"]}
STREAM: dict[str, Any] = DATA["stream"]
STANDARD: dict[str, dict[str, Any]] = {one["id"]: one for one in DATA["standard_examples"]}


def octets(entry: dict[str, Any]) -> bytes:
    """The octets of an entry as they were sent."""
    return bytes.fromhex(entry.get("raw") or entry["apdu"])


def key_set(entry: dict[str, Any]) -> bytes | None:
    """GUEK || GAK of an entry, zeros where it has no GAK; None where its key is not known."""
    keys = entry.get("keys", entry)
    guek = bytes.fromhex(keys.get(entry.get("key") or "guek") or keys.get("guek") or "")
    gak = bytes.fromhex(keys.get("gak") or "") or bytes(len(guek))
    return guek + gak if guek else None


def plaintexts() -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Every plaintext with the entry, or the frame of it, that says what is expected of it."""
    for name, entry in REAL.items():
        for frame in entry["frames"]:
            if "plain" in frame:
                yield name, frame, bytes.fromhex(frame["plain"])
    for name, entry in SYNTHETIC.items():
        if "plain" in entry and entry["kind"] == "synthetic":
            yield name, entry, bytes.fromhex(entry["plain"])
