"""A copy of the database alone: what it tells of readings, and what its octets open or seal, for every scheme."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import connection

from concentrators.comparison.subjects import subjects
from concentrators.comparison.withstands import Power, withstands
from concentrators.models import Concentrator
from keyvault.cose.sealing import TagInvalidError
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.lines import OpenedKey
from keyvault.schemes.table import ENVELOPES, SCHEMES, parse_frame
from tests.concentrators.dlms_devices import dlms_meter
from tests.concentrators.fleet import Device, commission, judged, usual
from tests.concentrators.masked_devices import MASKED_MAKES
from tests.concentrators.scheme_devices import SignedDevice, of_mac, of_sealed, of_session, of_signed
from tests.concentrators.test_hop_reports import Holder, meters
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
WH, NEXT_WH = 61_234, 61_235  # what the meter used: once in what was accepted, once in what comes later
MAKES: dict[str, Callable[[Concentrator], Device]] = {
    "ccm": lambda concentrator: commission(1, concentrator)[0],
    "session": of_session,
    "mac": of_mac,
    "sealed": of_sealed,
    "ccm + signed": of_signed,
    "session + signed": lambda concentrator: of_signed(concentrator, of_session),
    "sealed + signed": lambda concentrator: of_signed(concentrator, of_sealed),
    **MASKED_MAKES,
}
DLMS = {"dlms": 0x30, "dlms in clear": 0x10, "dlms without tag": 0x20}
POWERS = {one.name: withstands(one.name, one.envelope, one.content) for one in subjects()}


class Dump(NamedTuple):
    """All rows of all tables."""

    rows: list[tuple[Any, ...]]

    def tells(self, wh: int) -> bool:
        return any(wh in row for row in self.rows)

    def keys(self) -> set[bytes]:
        """Everything that could be a key of 32 octets: at each place of all that is short enough to enclose one."""
        blobs = {bytes(one) for row in self.rows for one in row if isinstance(one, (bytes, memoryview))}
        return {blob[at : at + 32] for blob in blobs if len(blob) <= 160 for at in range(len(blob) - 31)}


def dumped() -> Dump:
    rows: list[tuple[Any, ...]] = []
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT * FROM "{table}"')
            rows += cursor.fetchall()
    return Dump(rows)


def opened(frame: bytes, keys: set[bytes], title: bytes) -> Iterator[bytes]:
    """What a frame says under any of some keys."""
    parsed = parse_frame(frame)
    own = X25519PrivateKey.generate()
    for octets in keys:
        key = OpenedKey(octets, title, 1, parsed.alg, own)
        key.kid_context = parsed.kid[10:]
        try:
            yield ENVELOPES.of(frame).cipher(key).open_(parsed)
        except TagInvalidError:
            continue


def test_every_scheme_of_a_meter_is_tried() -> None:
    assert {*MAKES, *DLMS, "hop"} == {one.name for one in SCHEMES if one.number is not None}
    for name, base in (("ccm + hop tag", "ccm"), ("ccm + Ed25519", "ccm + signed"), ("shared", "ccm")):
        for threat in ("database_stored", "database_frames"):
            assert POWERS[name][threat] == POWERS[base][threat], "no scheme that a database could hold"


@pytest.mark.parametrize("name", MAKES)
def test_what_it_tells_and_opens(name: str) -> None:
    concentrator: Concentrator = ConcentratorFactory.create()
    device = MAKES[name](concentrator)
    assert judged(concentrator, [device.frame(0, WH)]) == {"accepted": 1}
    later = device.frame(1, NEXT_WH)
    dump, says = dumped(), POWERS[name]
    keys = dump.keys()
    assert len(keys) > 50
    assert dump.tells(WH) == (Power.READS in says["database_stored"])
    assert device.key not in keys
    heard = usual(1, NEXT_WH) in later
    assert (heard or any(opened(later, keys, device.title))) == (Power.READS in says["database_frames"])
    # And no head-end takes what is sealed under any of them: those that stand in the database as they are, at least.
    forged = [_as(device, key).seal(usual(2)) for key in sorted(keys)[:: max(1, len(keys) // 15)]]
    assert "accepted" not in judged(concentrator, forged)
    assert Power.FORGES not in says["database_frames"]
    assert any(opened(later, {device.key}, device.title)) != name.startswith("sealed"), "what would open is tried"


def _as(device: Device, key: bytes) -> Device:
    """The same meter, as somebody plays it with another key and without its signing secret."""
    if isinstance(device, SignedDevice):
        assert device.inner is not None
        return replace(device, inner=replace(device.inner, key=key), signing=1 + secrets.randbelow(2**250))
    return replace(device, key=key)


@pytest.mark.parametrize("name", DLMS)
def test_of_dlms_meters(name: str) -> None:
    """A key of theirs is one of 16 octets, in a set."""
    concentrator: Concentrator = ConcentratorFactory.create()
    octets, title = secrets.token_bytes(32), b"TST\0\0\0\0\1"
    device = dlms_meter(title, octets, concentrator, DLMS[name])
    frame = device.frame(b"\x0f\0\0\0\1\0\x06\0\0\xef\x32", 1)
    keys = dumped().keys()
    assert octets not in keys
    assert not {octets[:16], octets[16:]} & {key[at : at + 16] for key in keys for at in range(17)}
    says = POWERS[name]
    assert (b"\x06\0\0\xef\x32" in frame) == (Power.READS in says["database_frames"])
    assert Power.READS in says["database_stored"], "what is accepted is stored as readings of every scheme are"


def test_of_a_meter_whose_concentrator_opens() -> None:
    holder = Holder()
    (device,) = meters(holder, 1)
    assert judged(holder.row, [holder.report(device, wh=WH)]) == {"accepted": 1}
    sealed = hop_cipher(device.key, device.title, 1, 10, holder.title).seal(device.kid, 0, usual(1, NEXT_WH))
    dump, says = dumped(), POWERS["hop"]
    assert dump.tells(WH) == (Power.READS in says["database_stored"])
    keys = dump.keys()
    assert not {device.key, holder.key} & keys
    parsed = parse_frame(sealed)
    for octets in keys:
        with pytest.raises(TagInvalidError):
            hop_cipher(octets, device.title, 1, 10, holder.title).open_(parsed)
    assert says["database_frames"] is Power.NOTHING
