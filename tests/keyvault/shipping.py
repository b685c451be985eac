"""Shipments for tests, as a manufacturer writes them: by the document, not by our own encoder."""

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import keywrap

TRANSPORT = secrets.token_bytes(32)


def wrapped(key: bytes, transport_key: bytes = TRANSPORT) -> str:
    return base64.b64encode(keywrap.aes_key_wrap(transport_key, key)).decode()


def line(title: bytes, epoch: int = 1, key: bytes | None = None, transfer_key: bytes | None = None, **more: Any) -> Any:
    """A meter's line; random keys unless they are given, no transfer key where that is b''."""
    fields = {"system_title": title.hex(), "epoch": epoch, "key": wrapped(key or secrets.token_bytes(32))}
    if transfer_key != b"":
        fields["transfer_key"] = wrapped(transfer_key or secrets.token_bytes(32))
    return {**fields, **more}


def transfer_line(title: bytes, key: bytes) -> dict[str, Any]:
    return {"system_title": title.hex(), "transfer_key": wrapped(key)}


def header(meters: int, **more: Any) -> dict[str, Any]:
    fingerprint = hashlib.sha256(b"ami-headend key fingerprint" + TRANSPORT).hexdigest()[:16]
    return {"shipment": "S-1", "transport_key": fingerprint, "meters": meters, **more}


def text(lines: Sequence[Any], first: Any = None) -> bytes:
    objects = [header(len(lines)) if first is None else first, *lines]
    return "".join(json.dumps(one) + "\n" for one in objects).encode()


def transport_file(folder: Path, key: bytes = TRANSPORT) -> Path:
    path = folder / "transport.key"
    path.touch(0o600)
    path.write_bytes(key)
    return path


def shipment_file(folder: Path, lines: Sequence[Any], first: Any = None) -> Path:
    path = folder / f"shipment-{secrets.token_hex(4)}.jsonl"
    path.write_bytes(text(lines, first))
    return path
