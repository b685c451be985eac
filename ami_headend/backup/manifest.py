"""The manifest of a backup: a file beside the dump, written last, with a proof by the master key."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyvault import master_key
from keyvault.audit.chain import Head
from keyvault.backups import BackupError
from keyvault.master_key import MasterKeys, proof
from keyvault.master_key.proof import Proof, ProofError

FORMAT = 1
DUMP, MANIFEST = "database.dump", "manifest.json"
_CHUNK_OCTETS = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """The origin of a backup, and everything that it is checked against; ``counts`` are rows by table."""

    name: str
    made_at: str
    host: str
    server_version: str
    migrations: dict[str, list[str]]
    master_key_versions: list[int]
    audit_head: str
    journal_number: int
    counts: dict[str, int]
    octets: int
    sha256: str
    format: int = FORMAT

    @property
    def head(self) -> Head:
        number, _, mac = self.audit_head.partition(":")
        return Head(int(number), bytes.fromhex(mac))


def encode(manifest: Manifest) -> bytes:
    """Encode the file as JSON for people and programs. MasterKeyError if it cannot be proven."""
    fields = asdict(manifest)
    made = proof.prove(_proven(fields), manifest.name.encode())
    return json.dumps({**fields, "key": made.key.hex(), "mac": made.mac.hex()}, indent=2).encode() + b"\n"


def read(folder: Path, master: MasterKeys) -> Manifest:
    """Read and prove the manifest in a backup's folder. BackupError says what is wrong and what to do."""
    path = folder / MANIFEST
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        made = Proof(bytes.fromhex(fields.pop("key")), bytes.fromhex(fields.pop("mac")))
        if fields.get("format") != FORMAT:
            raise BackupError(f"{path} is of format {fields.get('format')!r}; this release reads format {FORMAT}")
        manifest = Manifest(**fields)
    except FileNotFoundError:
        raise BackupError(
            f"{folder} is not a complete backup: it has no {MANIFEST}. Name a folder that manage.py backup made"
        ) from None
    except OSError as error:
        raise BackupError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackupError(f"{path} is not a manifest of manage.py backup") from None
    try:
        proof.check(made, _proven(fields), manifest.name.encode(), master)
    except ProofError as error:
        raise BackupError(f"{path} is not proven by the master key in {master_key.provider()}: {error}") from None
    return manifest


def check_dump(folder: Path, manifest: Manifest, progress: Callable[[int], object] = lambda octets: None) -> Path:
    """Check the dump of a backup against its manifest and return its path; BackupError if it is incomplete or was
    changed.
    """
    path = folder / DUMP
    digest = hashlib.sha256()
    octets = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_OCTETS):
                digest.update(chunk)
                octets += len(chunk)
                progress(len(chunk))
    except OSError as error:
        raise BackupError(f"cannot read {path}: {error.strerror}") from None
    if octets != manifest.octets:
        raise BackupError(
            f"{path} has {octets} octets, but its manifest says {manifest.octets}: the backup is incomplete"
        )
    if digest.hexdigest() != manifest.sha256:
        raise BackupError(f"{path} has another SHA-256 than its manifest says: it was changed")
    return path


def _proven(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
