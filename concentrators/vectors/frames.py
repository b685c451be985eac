"""Vectors of frames: each envelope's known answers, forms that are refused, counters, keys."""

import gzip
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from concentrators.vectors.material import (
    COUNTER,
    DEVICE_KEY,
    HEAD_END_PRIVATE,
    PAYLOAD,
    RECEIVED_S,
    TIME_S,
    TITLE,
    Vector,
    Vectors,
    ccm,
    energy,
    event,
)
from keyvault.cose.kdf import uplink_key, uplink_secret
from keyvault.cose.structures import encode_bstr, encode_frame, encode_sequence, make_kid
from keyvault.schemes.mac import MacCipher
from keyvault.schemes.sealed import SealedSealer
from keyvault.schemes.session import SessionSealer
from meters.readings.obis import LOAD_PROFILE

EVENT = event("0-0:96.11.1", 40, TIME_S)
CONTEXTS = bytes.fromhex("6955b900a0a1a2a3a4a5a6a7"), bytes.fromhex("6955b901b0b1b2b3b4b5b6b7")
_EPHEMERAL = bytes(range(0xC0, 0xE0))
HPKE_PSK = -65537


def frame(identity: str, octets: bytes, verdict: str = "accepted", /, **more: Any) -> Vector:
    """A vector of a frame: what the head-end says of these octets, from a meter whose one key is of epoch 1."""
    return {
        "id": identity,
        "kind": "frame",
        "scheme": "ccm",
        "alg": 10,
        "system_title": TITLE,
        "epoch": 1,
        "device_key": DEVICE_KEY,
        "frame": octets,
        "verdict": verdict,
        "received_at": RECEIVED_S,
    } | more


def sealed_in(envelope: str, counter: int, payload: bytes, alg: int) -> tuple[bytes, Vector]:
    """A payload in a frame of an envelope, and what its vector says of that beside the payload."""
    more: Vector = {"alg": alg, "counter": counter}
    if envelope == "session":
        sealer = SessionSealer(DEVICE_KEY, TITLE, 1, alg, CONTEXTS[0])
        return sealer.seal_as(counter, payload), more | {"context": CONTEXTS[0]}
    if envelope == "mac":
        return MacCipher(DEVICE_KEY, TITLE, 1, alg).seal(make_kid(TITLE, 1), counter, payload), more
    if envelope == "sealed":
        private = X25519PrivateKey.from_private_bytes(HEAD_END_PRIVATE)
        public = private.public_key().public_bytes_raw()
        ephemeral = X25519PrivateKey.from_private_bytes(_EPHEMERAL)
        octets = SealedSealer(DEVICE_KEY, TITLE, 1, public).seal(counter, payload, ephemeral)
        head_end = {"head_end_private": HEAD_END_PRIVATE, "head_end_public": public}
        return octets, more | head_end | {"ephemeral_private": _EPHEMERAL}
    return ccm(counter, payload, alg=alg), more


def make() -> Vectors:
    """All vectors of frames."""
    yield from _ccm()
    yield from _session()
    yield from _mac()
    yield from _sealed()
    yield from _refused_forms()
    yield from _refused_keys()
    yield from _refused_counters()
    yield from _uplinks()


def _ccm() -> Vectors:
    for alg in (10, 11):
        keys = uplink_key(DEVICE_KEY, TITLE, 1, alg)
        octets = ccm(COUNTER, PAYLOAD, alg=alg)
        derived = {"key": keys.key, "base_iv": keys.base_iv}
        yield frame(f"ccm/alg-{alg}", octets, alg=alg, counter=COUNTER, payload=PAYLOAD, **derived)
    for counter in (0, 0xFF, 0x100, 0x1_0000, 0xFFFF_FFFF, 0xFF_FFFF_FFFF):
        octets = ccm(counter, EVENT)
        yield frame(f"ccm/counter-{counter:x}", octets, counter=counter, payload=EVENT)
    octets = ccm(0, EVENT, epoch=258)
    yield frame("ccm/epoch-258", octets, epoch=258, counter=0, payload=EVENT)
    day = [{-1: 26, -3: TIME_S, -2: LOAD_PROFILE, -4: "Wh", 2: 100}]
    payload = cbor2.dumps([*day, *({6: 900 * n, 2: 100 + n} for n in range(1, 96))])
    more: Vector = {"interval_minutes": 15, "received_at": TIME_S + 86_400}
    yield frame("ccm/a-day-in-one-frame", ccm(0x61AA, payload), counter=0x61AA, payload=payload, **more)


def _session() -> Vectors:
    for alg in (10, 11):
        sealer = SessionSealer(DEVICE_KEY, TITLE, 1, alg, CONTEXTS[0])
        keys = uplink_key(DEVICE_KEY, TITLE, 1, alg, CONTEXTS[0])
        more: Vector = {
            "scheme": "session",
            "context": CONTEXTS[0],
            "key": keys.key,
            "base_iv": keys.base_iv,
            "payload": PAYLOAD,
        }
        for counter in (0, 1):
            octets = sealer.seal_as(counter, PAYLOAD)
            yield frame(f"session/alg-{alg}-counter-{counter}", octets, alg=alg, counter=counter, **more)
    other = SessionSealer(DEVICE_KEY, TITLE, 1, 10, CONTEXTS[1])
    more = {"scheme": "session", "context": CONTEXTS[1], "counter": 0, "payload": PAYLOAD}
    yield frame("session/another-session", other.seal_as(0, PAYLOAD), **more)
    first = SessionSealer(DEVICE_KEY, TITLE, 1, 10, CONTEXTS[0])
    octets = first.seal_as(0, PAYLOAD)
    session: Vector = {"scheme": "session", "context": CONTEXTS[0]}
    yield frame(
        "session/of-another-session", octets, counter=0, before=[other.seal_as(0, energy(1, TIME_S + 1800))], **session
    )
    long = first.seal_as(0x1_0000, PAYLOAD)
    yield frame("session/counter-10000", long, counter=0x1_0000, payload=PAYLOAD, **session)
    ahead = bytes.fromhex("6955ca00a0a1a2a3a4a5a6a7")
    octets = SessionSealer(DEVICE_KEY, TITLE, 1, 10, ahead).seal_as(0, PAYLOAD)
    yield frame("session/opened-ahead", octets, "clock_skew", scheme="session", context=ahead, counter=0)
    changed = first.seal_as(2, PAYLOAD)[:-1] + b"\x00"
    yield frame("session/tag", changed, "tag_invalid", scheme="session", context=CONTEXTS[0])
    short = SessionSealer(DEVICE_KEY, TITLE, 1, 10, CONTEXTS[0]).seal_as(0, PAYLOAD).replace(b"\x0a\x4c", b"\x0a\x4b")
    yield frame("session/context-of-11-octets", short, "malformed", scheme="session")
    yield frame("session/ccm-frame", ccm(0, PAYLOAD), "algorithm_mismatch", scheme="session")


def _mac() -> Vectors:
    kid = make_kid(TITLE, 1)
    for alg in (4, 5):
        cipher = MacCipher(DEVICE_KEY, TITLE, 1, alg)
        octets, key = cipher.seal(kid, COUNTER, PAYLOAD), uplink_secret(DEVICE_KEY, TITLE, 1, alg)
        yield frame(f"mac/alg-{alg}", octets, scheme="mac", alg=alg, counter=COUNTER, payload=PAYLOAD, key=key)
        changed = octets.replace(b"\x18\x70", b"\x18\x71")
        yield frame(f"mac/alg-{alg}-changed-reading", changed, "tag_invalid", scheme="mac", alg=alg)
    both = {4: MacCipher(DEVICE_KEY, TITLE, 1, 4).seal(kid, 0, PAYLOAD)}
    yield frame("mac/shorter-tag-than-the-key-is-for", both[4], "algorithm_mismatch", scheme="mac", alg=5)
    long = both[4][:-9] + b"\x58\x08" + both[4][-8:]
    yield frame("mac/head-of-the-tag", long, "malformed", scheme="mac", alg=4)
    yield frame("mac/seven-octets-of-tag", both[4][:-9] + b"\x47" + both[4][-7:], "malformed", scheme="mac", alg=4)
    yield frame("mac/ccm-frame", ccm(0, PAYLOAD), "algorithm_mismatch", scheme="mac", alg=4)


def _sealed() -> Vectors:
    private = X25519PrivateKey.from_private_bytes(HEAD_END_PRIVATE)
    public = private.public_key().public_bytes_raw()
    sealer = SealedSealer(DEVICE_KEY, TITLE, 1, public)
    octets = sealer.seal(COUNTER, PAYLOAD, X25519PrivateKey.from_private_bytes(_EPHEMERAL))
    head_end: Vector = {"scheme": "sealed", "alg": HPKE_PSK}
    head_end |= {"head_end_private": HEAD_END_PRIVATE, "head_end_public": public}
    yield frame(
        "sealed/known-answer", octets, counter=COUNTER, payload=PAYLOAD, ephemeral_private=_EPHEMERAL, **head_end
    )
    yield frame("sealed/tag", octets[:-1] + b"\x00", "tag_invalid", **head_end)
    header, _, rest = octets.partition(b"\xa1\x23\x58\x20")
    low_order = header + b"\xa1\x23\x58\x20" + bytes(32) + rest[32:]
    yield frame("sealed/ephemeral-key-of-small-order", low_order, "tag_invalid", **head_end)
    yield frame("sealed/no-ephemeral-key", header + b"\xa0" + rest[32:], "malformed", **head_end)


def _refused_forms() -> Vectors:
    """Other encodings of the same values, each under a tag that would fit."""
    good = ccm(COUNTER, PAYLOAD)
    kid, sealed = make_kid(TITLE, 1), good[-60:]
    counter, fields = b"\x06\x42\x61\xa7", b"\x01\x0a"
    forms = {
        "array-of-four": b"\xd0\x84" + good[2:] + b"\xa0",
        "no-tag": good[1:],
        "tag-in-a-longer-head": b"\xd8\x10" + good[1:],
        "indefinite-array": b"\xd0\x9f" + good[2:] + b"\xff",
        "label-order": encode_frame(b"\xa3\x04\x4a" + kid + fields + counter, sealed),
        "alg-in-a-longer-head": encode_frame(b"\xa3\x01\x18\x0a\x04\x4a" + kid + counter, sealed),
        "counter-with-a-leading-zero": encode_frame(
            b"\xa3" + fields + b"\x04\x4a" + kid + b"\x06\x43\x00\x61\xa7", sealed
        ),
        "counter-of-no-octets": encode_frame(b"\xa3" + fields + b"\x04\x4a" + kid + b"\x06\x40", sealed),
        "counter-of-six-octets": encode_frame(
            b"\xa3" + fields + b"\x04\x4a" + kid + b"\x06\x46\x01" + bytes(5), sealed
        ),
        "kid-of-nine-octets": encode_frame(b"\xa3" + fields + b"\x04\x49" + kid[1:] + counter, sealed),
        "a-fourth-label": encode_frame(b"\xa4" + fields + b"\x04\x4a" + kid + counter + b"\x03\x00", sealed),
        "unprotected-header": good[:-63] + b"\xa1\x03\x00" + good[-62:],
        "ciphertext-in-a-longer-head": good[:-62] + b"\x59\x00\x3c" + sealed,
        "ciphertext-too-short": good[:-1],
        "octets-after-the-end": good + b"\x00",
        "empty": b"",
        "in-a-byte-string": encode_bstr(good),
    }
    for name, octets in forms.items():
        yield frame(f"form/{name}", octets, "malformed")
    long = ccm(COUNTER, cbor2.dumps([{0: "0-0:96.11.1", 1: "count", 2: 40, 6: TIME_S, 99: bytes(960)}]))
    yield frame("form/more-than-1024-octets", long, "malformed")


def _refused_keys() -> Vectors:
    good = ccm(COUNTER, PAYLOAD)
    yield frame("key/another-meter", good, "unknown_device", system_title=TITLE[:-1] + b"\xf2")
    yield frame("key/another-epoch", ccm(COUNTER, PAYLOAD, epoch=2), "unknown_epoch")
    yield frame("key/another-alg", ccm(COUNTER, PAYLOAD, alg=11), "algorithm_mismatch")
    yield frame("key/downlink-alg", encode_frame(good[3:7] + b"\x1e" + good[8:22], good[-60:]), "malformed")
    yield frame("key/another-key", ccm(COUNTER, PAYLOAD, key=DEVICE_KEY[::-1]), "tag_invalid")
    yield frame("key/changed-ciphertext", good[:-20] + b"\x00" + good[-19:], "tag_invalid")
    yield frame("key/changed-counter", good.replace(b"\x61\xa7", b"\x61\xa8"), "tag_invalid")
    yield frame("key/no-tag-at-all", encode_frame(good[3:22], b""), "tag_invalid")


def _refused_counters() -> Vectors:
    first = ccm(COUNTER, PAYLOAD)
    yield frame("counter/the-same-frame-again", first, "duplicate", before=[first])
    late = {"before": [first], "before_received_at": RECEIVED_S}
    for days, verdict in ((9, "duplicate"), (11, "replayed")):
        received = RECEIVED_S + days * 86_400
        yield frame(f"counter/the-same-frame-after-{days}-days", first, verdict, **late, received_at=received)
    other = ccm(COUNTER, energy(113, TIME_S + 1800))
    yield frame("counter/other-content", other, "counter_reused", before=[first])
    yield frame("counter/a-lower-one-later", ccm(5, EVENT), before=[first])
    again = ccm(COUNTER + 1, PAYLOAD)
    yield frame("counter/the-same-values-sealed-again", again, before=[first])
    conflict = ccm(COUNTER + 1, energy(113))
    yield frame("counter/another-value-for-the-interval", conflict, "reading_conflict", before=[first])


def _uplinks() -> Vectors:
    frames = [ccm(COUNTER, PAYLOAD), ccm(COUNTER + 1, EVENT)]
    body = encode_sequence(frames)
    uplink = {"kind": "uplink", "system_title": TITLE, "epoch": 1, "device_key": DEVICE_KEY}
    yield {"id": "uplink/two-frames", **uplink, "body": body, "frames": frames, "status": 202}
    longer = b"\x59\x00" + body[1:]
    yield {"id": "uplink/longer-head", **uplink, "body": longer, "frames": frames, "status": 202}
    members = gzip.compress(body[:87], mtime=0) + gzip.compress(body[87:], mtime=0)
    more = {"content_encoding": "gzip", "frames": frames, "status": 202}
    yield {"id": "uplink/gzip-of-two-members", **uplink, "body": members, **more}
    cut = members[:-9] + members[-8:]
    yield {"id": "uplink/gzip-that-is-damaged", **uplink, "body": cut, "content_encoding": "gzip", "status": 400}
    indefinite = b"\x5f" + body + b"\xff"
    yield {"id": "uplink/indefinite-length", **uplink, "body": indefinite, "status": 400}
    yield {"id": "uplink/cut-off", **uplink, "body": body[:-1], "status": 400}
    yield {"id": "uplink/no-byte-string", **uplink, "body": frames[0], "status": 400}
