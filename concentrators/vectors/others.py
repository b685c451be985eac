"""Vectors of device keys, of what concentrators open and check, and of enrolment."""

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.vectors.frames import frame
from concentrators.vectors.material import (
    CONCENTRATOR,
    CONCENTRATOR_KEY,
    COUNTER,
    DEVICE_KEY,
    HEAD_END_PRIVATE,
    METER_PRIVATE,
    PAYLOAD,
    RECEIVED_S,
    TIME_S,
    TITLE,
    Vectors,
    ccm,
)
from keyvault.cose.kdf import derived_device_key, downlink_key, hop_key, hop_mac_key, uplink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import make_kid
from keyvault.enrolment import certificates
from keyvault.enrolment.frames import seal_enrolment
from keyvault.schemes.agreed import agree, agreed_device_key, public_of
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.hop_tag import HopTagKey
from meters.readings.obis import LOAD_PROFILE

AUTHORITY = Ed25519PrivateKey.from_private_bytes(bytes(range(0xA0, 0xC0)))
AUTHORITY_KID, ISSUER, _AUDIENCE = b"authority-1", "ami-headend test authority", "hes-1"
_CTI = bytes(range(0xC0, 0xC8))
EXPIRES_S = 1_798_761_600
_KID = make_kid(TITLE, 1)


def make_device_keys() -> Vectors:
    """Where device keys come from: of a fleet key, and agreed on."""
    for epoch in (1, 258):
        key = derived_device_key(DEVICE_KEY, TITLE, epoch)
        more = {"kind": "device_key", "source": "derived", "system_title": TITLE, "epoch": epoch}
        yield {"id": f"device-key/derived-epoch-{epoch}", **more, "fleet_key": DEVICE_KEY, "device_key": key}
    z = agree(X25519PrivateKey.from_private_bytes(METER_PRIVATE), public_of(HEAD_END_PRIVATE))
    for epoch in (0, 1):
        yield {
            "id": f"device-key/agreed-epoch-{epoch}",
            "kind": "device_key",
            "source": "agreed",
            "system_title": TITLE,
            "epoch": epoch,
            "meter_private": METER_PRIVATE,
            "meter_public": public_of(METER_PRIVATE),
            "head_end_private": HEAD_END_PRIVATE,
            "head_end_public": public_of(HEAD_END_PRIVATE),
            "z": z,
            "device_key": _agreed(epoch),
        }


def make_hop() -> Vectors:
    """What concentrators open, check, fetch and report."""
    hop = {"system_title": TITLE, "epoch": 1, "device_key": DEVICE_KEY, "concentrator_title": CONCENTRATOR}
    keys = hop_key(DEVICE_KEY, TITLE, 1, 10, CONCENTRATOR)
    octets = hop_cipher(DEVICE_KEY, TITLE, 1, 10, CONCENTRATOR).seal(_KID, COUNTER, PAYLOAD)
    more = {"scheme": "hop", "alg": 10, "key": keys.key, "base_iv": keys.base_iv, "counter": COUNTER}
    yield {"id": "hop/frame", "kind": "hop", **hop, **more, "payload": PAYLOAD, "frame": octets, "verdict": "accepted"}
    reading = ccm(COUNTER, PAYLOAD)
    yield frame("hop/reading-for-the-head-end", reading, "algorithm_mismatch", scheme="hop", payload=PAYLOAD)
    event = cbor2.dumps([{0: "0-0:96.11.1", 1: "count", 2: 40, 6: TIME_S}])
    yield frame("hop/event-for-the-head-end", ccm(COUNTER, event), scheme="hop", counter=COUNTER, payload=event)
    inside = ccm(COUNTER, PAYLOAD)
    mac_key = hop_mac_key(DEVICE_KEY, TITLE, 1, CONCENTRATOR)
    tagged = HopTagKey.of_device(DEVICE_KEY, TITLE, 1, CONCENTRATOR).seal_tag(inside)
    tag = {"kind": "hop_tag", **hop, "key": mac_key}
    yield {"id": "hop-tag/around-a-ccm-frame", **tag, "frame": inside, "tagged": tagged, "verdict": "accepted"}
    changed = tagged[:-1] + bytes((tagged[-1] ^ 1,))
    yield {"id": "hop-tag/changed-tag", **tag, "tagged": changed, "verdict": "tag_invalid"}
    changed = tagged.replace(_KID, TITLE[:-1] + b"\xf2\x00\x01", 1)
    yield {"id": "hop-tag/of-another-title", **tag, "tagged": changed, "verdict": "malformed"}
    yield {"id": "hop-tag/octets-after-the-end", **tag, "tagged": tagged + b"\x00", "verdict": "malformed"}
    yield frame("hop-tag/still-worn-at-the-head-end", tagged, "malformed")
    plaintext = cbor2.dumps([[_KID, mac_key, keys.key, keys.base_iv]])
    cipher = DirectionCipher(downlink_key(CONCENTRATOR_KEY, CONCENTRATOR, 1, 30), 30)
    sealed = cipher.seal(make_kid(CONCENTRATOR, 1), 0x6955B90000, plaintext)
    holder = {"system_title": CONCENTRATOR, "epoch": 1, "device_key": CONCENTRATOR_KEY}
    yield {"id": "hop/hop-keys", "kind": "hop_keys", **holder, "plaintext": plaintext, "frame": sealed}
    cipher = DirectionCipher(uplink_key(CONCENTRATOR_KEY, CONCENTRATOR, 1, 10), 10)
    sums = cbor2.dumps(["sums", [LOAD_PROFILE, 30, TIME_S, 11_200, 100]])
    report = cbor2.dumps(
        [
            {-1: 26, -2: f"urn:dev:mac:{TITLE.hex()}:", -3: TIME_S, 0: "1-0:1.8.0", 1: "Wh", 2: 1_234_567},
            {0: LOAD_PROFILE, 1: "Wh", 2: 112},
        ]
    )
    for counter, (name, payload) in enumerate((("sums", sums), ("report", report))):
        octets = cipher.seal(make_kid(CONCENTRATOR, 1), counter, payload)
        more = {"scheme": "concentrator", "alg": 10, "counter": counter, "payload": payload}
        yield {"id": f"hop/{name}", "kind": "hop_report", **holder, **more, "frame": octets, "verdict": "accepted"}


def make_enrolment() -> Vectors:
    """Enrolment frames, and certificates that are refused."""
    usual = _certificate()
    yield _enrolment("enrolment/known-answer", usual, "accepted")
    yield _enrolment("enrolment/signed-by-another", _certificate(Ed25519PrivateKey.from_private_bytes(bytes(32))))
    yield _enrolment("enrolment/of-another-title", _certificate(system_title=TITLE[:-1] + b"\xf2"))
    yield _enrolment("enrolment/for-another-head-end", _certificate(audience="hes-2"))
    yield _enrolment("enrolment/expired", _certificate(expires_s=RECEIVED_S - 1), "certificate_expired")
    yield _enrolment("enrolment/not-yet", _certificate(issued_s=RECEIVED_S + 86_400))
    changed = usual[:-1] + bytes((usual[-1] ^ 1,))
    yield _enrolment("enrolment/changed-signature", changed)
    yield _enrolment("enrolment/bound-to-another-certificate", usual, "tag_invalid", bound_to=changed)
    revocation = certificates.revoke(AUTHORITY, AUTHORITY_KID, _CTI, TIME_S + 60)
    yield _enrolment("enrolment/revoked", usual, "certificate_revoked") | {"revocation": revocation}
    frames = {"before": [_enrolment("", usual, "")["frame"]]}
    yield _enrolment("enrolment/the-same-frame-again", usual, "duplicate") | frames
    yield _enrolment("enrolment/the-next-frame", usual, "accepted", counter=1) | frames
    another = _certificate(cti=_CTI[::-1], issued_s=TIME_S + 60)
    yield _enrolment("enrolment/another-certificate", another, "already_enrolled", counter=1) | frames


def _certificate(authority: Ed25519PrivateKey = AUTHORITY, **other: object) -> bytes:
    fields: dict[str, object] = {
        "kid": AUTHORITY_KID,
        "issuer": ISSUER,
        "system_title": TITLE,
        "audience": _AUDIENCE,
        "public": public_of(METER_PRIVATE),
        "cti": _CTI,
        "issued_s": TIME_S,
        "expires_s": EXPIRES_S,
    }
    return certificates.issue(authority, **fields | other)  # type: ignore[arg-type]


def _enrolment(
    identity: str,
    certificate: bytes,
    verdict: str = "certificate_invalid",
    bound_to: bytes | None = None,
    counter: int = 0,
) -> dict[str, object]:
    key = _agreed(1)
    cipher = DirectionCipher(uplink_key(key, TITLE, 1, 10), 10)
    octets = seal_enrolment(cipher, _KID, counter, PAYLOAD, bound_to or certificate)
    if bound_to:
        octets = octets.replace(bound_to, certificate)
    return {
        "id": identity,
        "kind": "enrolment",
        "system_title": TITLE,
        "epoch": 1,
        "device_key": key,
        "meter_private": METER_PRIVATE,
        "head_end_private": HEAD_END_PRIVATE,
        "authority": {"kid": AUTHORITY_KID, "issuer": ISSUER, "public": AUTHORITY.public_key().public_bytes_raw()},
        "audience": _AUDIENCE,
        "certificate": certificate,
        "counter": counter,
        "payload": PAYLOAD,
        "frame": octets,
        "received_at": RECEIVED_S,
        "verdict": verdict,
    }


def _agreed(epoch: int) -> bytes:
    z = agree(X25519PrivateKey.from_private_bytes(METER_PRIVATE), public_of(HEAD_END_PRIVATE))
    return agreed_device_key(z, TITLE, epoch, public_of(METER_PRIVATE), public_of(HEAD_END_PRIVATE))
