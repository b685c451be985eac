"""Rotation of the master key against a bare loop: open, seal, one batched UPDATE and one commit per 1,000 keys.

Both run in one process over every stored key of a site, from one version to the next.
"""

import base64
import json
import logging
import os
import secrets
import time
from pathlib import Path

import cbor2
import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import connection

from bench.parts import Bench
from bench.site import Site, settle
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.master_key import rewrap
from keyvault.models import MasterKeyRotation

BATCH = 1000
_SELECT = """SELECT id, system_title, epoch, wrapped FROM keyvault_devicekey
             WHERE id > %s AND master_key_version <> %s ORDER BY id LIMIT %s"""
_UPDATE = """UPDATE keyvault_devicekey k SET wrapped = n.wrapped, master_key_version = %s
             FROM unnest(%s::int[], %s::bytea[]) AS n(id, wrapped) WHERE k.id = n.id"""


def against_bare_loop(bench: Bench, site: Site, rounds: int) -> None:
    """Measure the bare loop and the rotation in turn, each over all keys of the site."""
    site.use()
    logging.getLogger("keyvault.audit.chain").setLevel(logging.WARNING)  # two lines a round
    with psycopg.connect(bench.database_url(site.name)) as bare:
        for number in range(rounds + 1):
            settle("keyvault_devicekey")
            bare_rate = _bare(bare, master_key.provider().add_version())
            settle("keyvault_devicekey")
            rate = _rotation()
            if number == 0:
                continue  # warming up
            bench.results.rewrap.append((bare_rate, rate))
            bench.say(
                f"round {number}, rewrap: bare loop {bare_rate:,.0f}, rotation {rate:,.0f} keys/s, "
                f"ratio {rate / bare_rate:.2f}"
            )


def _rotation() -> float:
    """Return the keys a second that a rotation rewraps in this process."""
    MasterKeyRotation.objects.all().delete()
    master_key.provider().add_version()  # begin() uses it, so that only the rewrapping is timed
    rotation = rewrap.begin(BATCH, Actor("bench", "bench"))
    began = time.perf_counter()
    while rewrap.rewrap_batch(rotation.pk):
        pass
    seconds = time.perf_counter() - began
    rotation.refresh_from_db()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM keyvault_devicekey WHERE master_key_version <> %s", [rotation.to_version])
        left = cursor.fetchone()[0]
    if rotation.unreadable or left:
        raise RuntimeError(f"{rotation.unreadable} keys did not open, {left} were left")
    return rotation.rewrapped / seconds


def _bare(database: "psycopg.Connection[tuple[int, bytes, int, bytes]]", to_version: int) -> float:
    """Return the keys a second of the bare loop."""
    rows = json.loads(Path(os.environ["MASTER_KEY_FILE"]).read_text())["versions"]
    keys = {row["version"]: AESGCM(base64.b64decode(row["key"])) for row in rows}
    protected = cbor2.dumps({1: 3, 4: to_version.to_bytes(4, "big")})
    cursor = database.cursor(binary=True)
    last = count = 0
    began = time.perf_counter()
    while batch := cursor.execute(_SELECT, [last, to_version, BATCH], prepare=True).fetchall():
        changed = []
        for _, title, epoch, wrapped in batch:
            external = cbor2.dumps(["device key" if epoch else "transfer key", title, epoch])
            key = keys[int.from_bytes(wrapped[8:12], "big")]
            opened = key.decrypt(wrapped[15:27], wrapped[29:], cbor2.dumps(["Encrypt0", wrapped[3:12], external]))
            iv = secrets.token_bytes(12)
            sealed = keys[to_version].encrypt(iv, opened, cbor2.dumps(["Encrypt0", protected, external]))
            changed.append(b"\xd0\x83\x49" + protected + b"\xa1\x05\x4c" + iv + b"\x58\x30" + sealed)
        ids = "{" + ",".join(str(row[0]) for row in batch) + "}"
        octets = "{" + ",".join('"\\\\x' + wrapped.hex() + '"' for wrapped in changed) + "}"
        cursor.execute(_UPDATE, [to_version, ids, octets], prepare=True)
        database.commit()
        last = batch[-1][0]
        count += len(batch)
    return count / (time.perf_counter() - began)
