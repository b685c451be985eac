"""manage.py mask_authority: its folder, whom it believes, the meters that it takes."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.core.management import CommandError, call_command

from keyvault.enrolment.certificates import issue, revoke
from mask_authority.management.commands.mask_authority import Command
from tests.builders import KNOWN_TITLE

CERTIFIER = Ed25519PrivateKey.from_private_bytes(bytes(range(0xA0, 0xC0)))
CERTIFIER_PUBLIC = CERTIFIER.public_key().public_bytes_raw()
METER = X25519PrivateKey.from_private_bytes(bytes(range(0x60, 0x80))).public_key().public_bytes_raw()
NOW_S = int(datetime.now(UTC).timestamp())


def run(action: str, *words: object) -> str:
    out = StringIO()
    call_command(Command(stdout=out), action, *map(str, words))
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "masks"
    said = run("init", made, "--name", "council", "--witness", tmp_path / "elsewhere" / "witness")
    assert re.search(r"X25519, for meters in the factory: [0-9a-f]{64}\n", said)
    run("pin_certifier", made, "--kid", "lab-1", "--issuer", "Our laboratory", "--public", CERTIFIER_PUBLIC.hex())
    return made


def certificate(path: Path, **other: Any) -> Path:
    fields: dict[str, Any] = {
        "authority": CERTIFIER,
        "kid": b"lab-1",
        "issuer": "Our laboratory",
        "system_title": KNOWN_TITLE,
        "audience": "mask",
        "public": METER,
        "cti": bytes(8),
        "issued_s": NOW_S - 60,
        "expires_s": NOW_S + 86_400,
    }
    path.write_bytes(issue(**fields | other))
    return path


def test_a_meter_is_taken_by_its_certificate(folder: Path, tmp_path: Path) -> None:
    file = certificate(tmp_path / "meter.cwt")
    assert run("take", folder, file) == "1 meter was taken; 0 had been taken already.\n"
    assert run("take", folder, file) == "0 meters were taken; 1 had been taken already.\n"
    listed = json.loads(run("list", folder, "--json"))
    assert (listed["name"], listed["meters"], listed["sets"]) == ("council", 1, 0)
    assert listed["certifiers"] == {"lab-1": CERTIFIER_PUBLIC.hex()}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"audience": "hes-1"}, "it vouches for no mask key"),
        ({"kid": b"lab-2"}, "no authority lab-2 is pinned"),
        ({"issuer": "Another"}, "its iss is 'Another'"),
        ({"authority": Ed25519PrivateKey.from_private_bytes(bytes(32))}, "its signature does not fit"),
        ({"issued_s": NOW_S + 3600}, "its time has not come, or is over"),
        ({"expires_s": NOW_S - 1}, "its time has not come, or is over"),
        ({"public": bytes(32)}, "small order"),
    ],
)
def test_other_certificates_are_refused(folder: Path, tmp_path: Path, other: dict[str, Any], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        run("take", folder, certificate(tmp_path / "meter.cwt", **other))
    assert json.loads(run("list", folder, "--json"))["meters"] == 0


def test_a_meter_keeps_its_mask_key(folder: Path, tmp_path: Path) -> None:
    run("take", folder, certificate(tmp_path / "meter.cwt"))
    other = X25519PrivateKey.from_private_bytes(bytes((9,)) * 32).public_key().public_bytes_raw()
    with pytest.raises(CommandError, match="has another mask key already, and that is for good"):
        run("take", folder, certificate(tmp_path / "other.cwt", public=other, cti=bytes((1,)) * 8))


def test_a_revoked_certificate_takes_no_meter(folder: Path, tmp_path: Path) -> None:
    file, statement = certificate(tmp_path / "meter.cwt"), tmp_path / "revoked.cose"
    statement.write_bytes(revoke(CERTIFIER, b"lab-1", bytes(8), NOW_S))
    assert run("revoke", folder, statement) == f"Certificate {bytes(8).hex()} is revoked.\n"
    with pytest.raises(CommandError, match="its authority revoked it"):
        run("take", folder, file)
    assert run("revoke", folder, statement) == f"Certificate {bytes(8).hex()} is revoked already.\n"
    assert json.loads(run("list", folder, "--json"))["revoked"] == 1


def test_a_meter_that_was_taken_stays_after_a_revocation(folder: Path, tmp_path: Path) -> None:
    """An authority that let go of it would refuse the sets that others have answered."""
    run("take", folder, certificate(tmp_path / "meter.cwt"))
    statement = tmp_path / "revoked.cose"
    statement.write_bytes(revoke(CERTIFIER, b"lab-1", bytes(8), NOW_S))
    assert f"Meter {KNOWN_TITLE.hex()} was taken by it and stays" in run("revoke", folder, statement)
    assert json.loads(run("list", folder, "--json"))["meters"] == 1


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"no revocation", "."),
        (revoke(CERTIFIER, b"lab-2", bytes(8), NOW_S), "no authority lab-2 is pinned"),
        (revoke(Ed25519PrivateKey.from_private_bytes(bytes(32)), b"lab-1", bytes(8), NOW_S), "does not fit"),
    ],
)
def test_other_revocations_are_refused(folder: Path, tmp_path: Path, octets: bytes, reason: str) -> None:
    statement = tmp_path / "revoked.cose"
    statement.write_bytes(octets)
    with pytest.raises(CommandError, match=reason):
        run("revoke", folder, statement)
    assert json.loads(run("list", folder, "--json"))["revoked"] == 0


def test_a_state_from_before_revocations_gets_its_table(folder: Path, tmp_path: Path) -> None:
    with sqlite3.connect(folder / "state.sqlite3") as db:
        db.execute("DROP TABLE revoked")
    assert run("take", folder, certificate(tmp_path / "meter.cwt")).startswith("1 meter was taken")


def test_requesters_the_log_and_restores(folder: Path) -> None:
    run("pin_requester", folder, "--name", "City works", "--public", CERTIFIER_PUBLIC.hex())
    assert f"requester City works: public {CERTIFIER_PUBLIC.hex()}" in run("list", folder)
    assert run("log", folder) == ""
    assert "answers for starts from" in run("restored", folder)
    with pytest.raises(CommandError, match="this requester is pinned already"):
        run("pin_requester", folder, "--name", "again", "--public", CERTIFIER_PUBLIC.hex())


@pytest.mark.parametrize("public", ["zz", "00", "00" * 32])
def test_keys_in_no_form_are_refused(folder: Path, public: str) -> None:
    with pytest.raises(CommandError):
        run("pin_requester", folder, "--name", "City works", "--public", public)


def test_the_witness_lies_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="it would be restored with it"):
        run("init", tmp_path / "masks", "--name", "council", "--witness", tmp_path / "masks" / "witness")
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("inside", ["masks/witness", "masks/below/witness", "link/witness"])
def test_the_witness_lies_nowhere_in_the_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "link").symlink_to("masks")
    with pytest.raises(CommandError, match="restored with it"):
        run("init", tmp_path / "masks", "--name", "council", "--witness", tmp_path / inside)
    assert not list((tmp_path / "masks").iterdir())


@pytest.mark.parametrize("number", ["0", "-1", "1000001", "9" * 30, "²", "many"])
def test_numbers_that_would_end_it_for_good_are_refused(folder: Path, number: str) -> None:
    """Without sets to keep, nothing is answered for any start from then on."""
    for words in (("serve", folder, f"--keep-days={number}"), ("log", folder, f"--last={number}")):
        with pytest.raises(CommandError, match="is no number from 1 to 1,000,000"):
            run(*words)


def test_new_keys_may_answer_for_earlier_starts(tmp_path: Path) -> None:
    at = datetime.now(UTC) - timedelta(days=9)
    run("init", tmp_path / "m", "--name", "c", "--witness", tmp_path / "w", "--answers-from", at.isoformat())
    assert f"It answers for starts from {at:%Y-%m-%d %H:%M} UTC on." in run("list", tmp_path / "m")


def test_help_shows_examples() -> None:
    assert re.search(
        r"^  .*manage\.py mask_authority\b",
        Command().create_parser("manage.py", "mask_authority").format_help(),
        re.MULTILINE,
    )


def test_it_runs_with_nothing_of_the_head_ends(folder: Path) -> None:
    """Neither a database nor a secret is in the environment, and no module of the head-end is loaded."""
    watched = (
        "import sys; sys.argv[1:] = ['mask_authority', 'list', sys.argv[1]]\n"
        "from ami_headend.__main__ import main\n"
        "main()\n"
        "theirs = ('ami_headend.settings', 'keyvault.models', 'keyvault.master_key', 'concentrators', 'psycopg')\n"
        "sys.exit(', '.join(name for name in theirs if name in sys.modules) or 0)\n"
    )
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", watched, str(folder)], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "council" in done.stdout
