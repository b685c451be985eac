"""What is exported convinces the independent program of docs/evidence.md, and what was tampered with does not."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import cbor2
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from nacl.exceptions import BadSignatureError

from concentrators.models import Concentrator
from keyvault.coupons.forms import encode_reading, parse_reading
from keyvault.models import AuditRecord
from tests.builders import pack
from tests.concentrators.fleet import INTERVAL, NOW, START, START_S, judged, usual
from tests.concentrators.scheme_devices import AUTHORITY_KEY, SignedDevice, announce, of_signed
from tests.damage import damaged

pytestmark = pytest.mark.django_db
AUTHORITY = AUTHORITY_KEY.public_key().public_bytes_raw()
PAGE = (Path(settings.BASE_DIR) / "docs" / "evidence.md").read_text()
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
verifier: dict[str, Any] = {"__name__": "verifier"}
exec(compile(PROGRAM, "docs/evidence.md", "exec"), verifier)  # noqa: S102 - our own page


@pytest.fixture
def meter(concentrator: Concentrator) -> SignedDevice:
    """A meter with a day of signed readings."""
    device = of_signed(concentrator)
    announce(device, 11)
    frames = [device.frame(n, 100 + n) for n in range(14)]
    assert judged(concentrator, frames) == {"accepted": 14}
    return device


def exported(path: Path, *meters: str) -> list[dict[str, Any]]:
    out = StringIO()
    times = {"start": NOW - timedelta(days=2), "end": NOW + timedelta(days=1)}
    call_command(
        "evidence",
        "export",
        *meters,
        f"--from={times['start'].isoformat()}",
        f"--to={times['end'].isoformat()}",
        f"--output={path}",
        stdout=out,
        stderr=out,
    )
    found = []
    with path.open("rb") as file:
        while file.peek(1):
            found.append(cbor2.load(file))
    return found


def test_what_is_exported_is_proven_by_a_program_that_knows_nothing_of_us(
    concentrator: Concentrator, meter: SignedDevice, tmp_path: Path
) -> None:
    other = of_signed(concentrator)
    assert judged(concentrator, [other.frame(3)]) == {"accepted": 1}
    path = tmp_path / "a.evidence"
    found = exported(path, meter.title.hex(), other.meter.serial_number)
    assert [len(one["readings"]) for one in found] == [28, 2]
    assert [len(one["lists"]) for one in found] == [2, 1]
    assert path.stat().st_mode & 0o777 == 0o600
    program = tmp_path / "verifier"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-I", program, path, AUTHORITY.hex()], capture_output=True, text=True, timeout=120
    )
    first, reading, *_ = done.stdout.split("\n")
    assert (done.returncode, first) == (0, f"{meter.title.hex()} 28 readings proven:"), done.stderr
    code, unit, time, steps, *_ = found[0]["readings"][0]
    assert reading.startswith(f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC, {code}: {steps} {unit}")
    assert "(30 minutes from then on, says the head-end)" in done.stdout
    for octets in (b"", cbor2.dumps(found[0] | {"readings": []})):
        path.write_bytes(octets)
        done = subprocess.run(
            [sys.executable, "-I", program, path, AUTHORITY.hex()], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, "nothing is proven" in done.stderr) == (1, True)
    assert AuditRecord.objects.filter(act="evidence.export").count() == 1


def test_a_pack_across_the_end_of_the_period_proves_what_lies_within(
    concentrator: Concentrator, tmp_path: Path
) -> None:
    """Signatures are kept by the latest time that they say: that of this pack lies beyond the period."""
    device = of_signed(concentrator)
    records = [{0: INTERVAL, 1: "Wh", 2: 100 + n, 6: 1800 * n} for n in range(4)]
    assert judged(concentrator, [device.seal(pack({-1: 26, -3: START_S} | records[0], *records[1:]))]) == {
        "accepted": 1
    }
    later = device.frame(4)
    assert judged(concentrator, [later]) == {"accepted": 1}
    path = tmp_path / "a.evidence"
    end = START + timedelta(hours=1)
    words = ["--from", START.isoformat(), "--to", end.isoformat(), "--output", str(path)]
    call_command("evidence", "export", device.title.hex(), *words, stdout=StringIO())
    found = cbor2.loads(path.read_bytes())
    assert (len(found["readings"]), len(found["signatures"])) == (2, 1)
    assert len(verifier["verify"](found, AUTHORITY)) == 2


def test_what_was_tampered_with_is_found_out(concentrator: Concentrator, meter: SignedDevice, tmp_path: Path) -> None:
    (good,) = exported(tmp_path / "a.evidence", meter.title.hex())
    verify = verifier["verify"]
    assert len(verify(good, AUTHORITY)) == 28
    signature = parse_reading(good["signatures"][0])
    forged = encode_reading(signature.kid, signature.number, usual(0, 1), signature.response)
    twice = meter.sign(usual(0, 1), number=0)
    code, unit, time, steps, *rest = good["readings"][0]
    for changes, why in (
        ({"readings": [[code, unit, time, steps + 1, *rest]]}, "no signature says"),
        ({"readings": [[code, unit, time + 1, steps, *rest]]}, "no signature says"),
        ({"readings": [[code, "varh", time, steps, *rest]]}, "no signature says"),
        ({"signatures": good["signatures"][1:]}, "no signature says"),
        ({"signatures": [forged]}, "does not fit"),
        ({"second": [twice]}, "signs two things"),
        ({"lists": good["lists"][:1]}, "was not announced"),
        ({"lists": good["lists"] + good["lists"][:1]}, "is announced twice"),
        ({"lists": [damaged(good["lists"][0])]}, "signed by nobody"),
        ({"certificates": []}, "signed by nobody"),
        ({"title": bytes(8)}, "of something else"),
    ):
        with pytest.raises(ValueError, match=why):
            verify(good | changes, AUTHORITY)
    with pytest.raises(BadSignatureError):
        verify(good, bytes(range(32)))
    flipped = bytearray(good["signatures"][0])
    for place in range(len(flipped)):
        flipped[place] ^= 4
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it says, it takes none of them
            verify(good | {"signatures": [bytes(flipped), *good["signatures"][1:]]}, AUTHORITY)
        flipped[place] ^= 4


def test_double_use_is_in_the_file(concentrator: Concentrator, meter: SignedDevice, tmp_path: Path) -> None:
    twice = meter.sign(usual(0, 1), number=0)
    assert judged(concentrator, [meter.seal_unsigned(twice)]) == {"coupon_reused": 1}
    (found,) = exported(tmp_path / "a.evidence", meter.title.hex())
    assert found["second"] == [twice]
    with pytest.raises(ValueError, match="signs two things"):
        verifier["verify"](found, AUTHORITY)


def test_it_is_refused_before_a_file_is_made(meter: SignedDevice, tmp_path: Path) -> None:
    path = tmp_path / "a.evidence"
    words = ["--from=2026-01-02T00:00Z", "--to=2026-01-03T00:00Z", f"--output={path}"]
    for meters, more, why in (
        (["nobody"], words, "there is no meter"),
        ([meter.title.hex()], ["--from=2026-01-04T00:00Z", *words[1:]], "not before"),
    ):
        with pytest.raises(CommandError, match=why):
            call_command("evidence", "export", *meters, *more)
        assert not path.exists()
    path.write_text("mine")
    with pytest.raises(CommandError, match="exists already"):
        call_command("evidence", "export", meter.title.hex(), *words[1:], "--from=2026-01-02T00:00Z")
    assert path.read_text() == "mine"
