"""docs/vectors.json: it is what the command writes, and this head-end gives each of its verdicts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings
from django.core.management import call_command
from django.db import transaction
from django.test import override_settings

from concentrators.failures.kinds import FailureKind
from concentrators.ingest import reception, verification
from concentrators.ingest.worker import Worker
from concentrators.models import Concentrator
from concentrators.vectors import material
from keyvault.cose.kdf import derived_device_key, downlink_key, uplink_key
from keyvault.cose.sealing import DirectionCipher, TagInvalidError
from keyvault.cose.structures import MalformedError, parse_frame
from keyvault.coupons import identities
from keyvault.device_keys import agreement_keys, key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.models import DeviceKey
from keyvault.schemes.agreed import agree, agreed_device_key, public_of
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.hop_tag import HopTagKey, parse_tagged
from keyvault.schemes.table import needs_agreement_key
from meters.models import MeterStatus
from tests.concentrators.enrolling import OFFICER
from tests.concentrators.fleet import outcome, post
from tests.factories import ConcentratorFactory, MeterFactory
from tests.vectors.obeying import said

FILE = Path(settings.BASE_DIR) / "docs" / "vectors.json"
VERDICTS = {"accepted", "duplicate", *FailureKind}
VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text())["vectors"]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    """The vectors of some kinds, with their octets as such."""
    return [_octets(one) for one in VECTORS if one["kind"] in kinds]


def _octets(value: Any) -> Any:
    if isinstance(value, dict):
        words = {"id", "kind", "scheme", "verdict", "says", "source", "issuer", "audience", "content_encoding"}
        words |= {"key_state", "meter_status"}
        return {name: one if name in words else _octets(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_octets(one) for one in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


def test_the_file_is_what_the_command_writes(tmp_path: Path) -> None:
    call_command("vectors", "--output", str(tmp_path / "vectors.json"))
    assert FILE.read_text() == (tmp_path / "vectors.json").read_text(), "manage.py vectors was not run"


def test_every_verdict_is_one_of_the_product() -> None:
    assert {one["verdict"] for one in VECTORS if "verdict" in one} <= VERDICTS
    shown = {one["verdict"] for one in of_kind("frame", "enrolment")}
    assert shown >= {
        *("accepted", "duplicate", "malformed", "unknown_device", "unknown_epoch", "algorithm_mismatch", "tag_invalid"),
        *("counter_reused", "payload_invalid", "unknown_register", "registry_mismatch", "implausible"),
        *("identity_mismatch", "clock_skew", "too_old", "reading_conflict"),
        *("certificate_invalid", "certificate_expired", "certificate_revoked", "already_enrolled"),
        *("key_retired", "device_suspended", "counter_too_old", "session_closed", "replayed"),
        *("coupon_unknown", "signature_invalid", "coupon_reused"),
    }


@pytest.mark.parametrize("one", of_kind("device_key"), ids=lambda one: str(one["id"]))
def test_device_keys(one: dict[str, Any]) -> None:
    title, epoch = one["system_title"], one["epoch"]
    if one["source"] == "derived":
        assert derived_device_key(one["fleet_key"], title, epoch) == one["device_key"]
        return
    own = X25519PrivateKey.from_private_bytes(one["meter_private"])
    publics = public_of(one["meter_private"]), public_of(one["head_end_private"])
    assert publics == (one["meter_public"], one["head_end_public"])
    assert agreed_device_key(agree(own, publics[1]), title, epoch, *publics) == one["device_key"]


def test_what_concentrators_open_and_check() -> None:
    for one in of_kind("hop"):
        cipher = hop_cipher(one["device_key"], one["system_title"], 1, 10, one["concentrator_title"])
        assert cipher.open_(parse_frame(one["frame"])) == one["payload"]
    for one in of_kind("hop_tag"):
        key = HopTagKey.of_device(one["device_key"], one["system_title"], 1, one["concentrator_title"])
        try:
            verdict = "accepted" if key.check_tag(parse_tagged(one["tagged"])) == one["frame"] else "another frame"
        except TagInvalidError:
            verdict = "tag_invalid"
        except MalformedError:
            verdict = "malformed"
        assert verdict == one["verdict"], one["id"]
    for one in of_kind("hop_keys"):
        cipher = DirectionCipher(downlink_key(one["device_key"], one["system_title"], 1, 30), 30)
        assert cipher.open_(parse_frame(one["frame"])) == one["plaintext"]
    for one in of_kind("hop_report"):
        cipher = DirectionCipher(uplink_key(one["device_key"], one["system_title"], 1, 10), 10)
        assert cipher.open_(parse_frame(one["frame"])) == one["payload"]


@pytest.mark.django_db
def test_what_the_head_end_says_of_frames() -> None:
    """One meter after another, each forgotten again."""
    concentrator, other = ConcentratorFactory.create_batch(2)
    wrong = {}
    for one in of_kind("frame"):
        with _forgotten(), _provisioned(one):
            _heard_before(other, one)
            verdict = _verdict(concentrator, one["frame"], datetime.fromtimestamp(one["received_at"], UTC))
        if verdict != one["verdict"]:
            wrong[one["id"]] = verdict, one["verdict"]
    assert wrong == {}


def _heard_before(concentrator: Concentrator, one: dict[str, Any]) -> None:
    """The head-end accepts the frames that come before that of a vector, in an uplink of their own."""
    frames = one.get("before", ())
    if frames:
        received_at = datetime.fromtimestamp(one.get("before_received_at", one["received_at"]), UTC)
        uplink = post(concentrator, frames, received_at)
        verification.verify(uplink.pk, Worker())
        uplink.refresh_from_db()
        assert outcome(uplink) == {"accepted": len(frames)}, one["id"]


def _verdict(concentrator: Concentrator, octets: bytes, received_at: datetime) -> str:
    """Of a worker that remembers no other meter of this title."""
    uplink = post(concentrator, [octets], received_at)
    verification.verify(uplink.pk, Worker())
    uplink.refresh_from_db()
    [verdict] = outcome(uplink)
    return verdict


@contextmanager
def _forgotten() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@contextmanager
def _provisioned(one: dict[str, Any]) -> Iterator[None]:
    """The meter of a vector, with its one key."""
    commissioned_at = datetime.fromtimestamp(material.TIME_S - 86_400, UTC)
    MeterFactory.create(
        system_title=one["system_title"],
        commissioned_at=commissioned_at,
        interval_minutes=one.get("interval_minutes", 30),
        status=one.get("meter_status", MeterStatus.COMMISSIONED),
    )
    version = None
    if needs_agreement_key(one["scheme"]):
        with _head_end_key(one["head_end_private"]):
            version = agreement_keys.init("hes-1", OFFICER).pk
    key = NewKey(one["system_title"], one["epoch"], one["device_key"], one["alg"], one["scheme"], version)
    provisioning.provision_stored([key])
    _reach_state(one)
    kept = {"gap_runs": "COUNTER_GAP_RUNS", "sessions_kept": "SESSIONS_KEPT"}
    with override_settings(**{setting: one[name] for name, setting in kept.items() if name in one}):
        yield


def _reach_state(one: dict[str, Any]) -> None:
    """The meter's key has the state, and its identity the certificate, that a vector names."""
    if "key_state" in one:
        key_rows.set_key_state([DeviceKey.objects.get(system_title=one["system_title"]).pk], one["key_state"])
    if "identity_certificate" in one:
        at = datetime.fromtimestamp(one["received_at"], UTC)
        _pin(one["authority"], at)
        identities.register([one["identity_certificate"]], OFFICER, at)


def _pin(authority: dict[str, Any], at: datetime) -> None:
    authorities.pin(PublicAuthority(authority["kid"], authority["issuer"], authority["public"]), OFFICER, at)


@contextmanager
def _head_end_key(private: bytes) -> Iterator[None]:
    """The head-end's next agreement key is this one."""
    made = X25519PrivateKey.from_private_bytes(private)
    keys = SimpleNamespace(generate=lambda: made, from_private_bytes=X25519PrivateKey.from_private_bytes)
    with patch.object(agreement_keys, "X25519PrivateKey", keys):
        yield


@pytest.mark.django_db
def test_what_the_head_end_says_of_enrolments() -> None:
    concentrator, other = ConcentratorFactory.create_batch(2)
    wrong = {}
    for one in of_kind("enrolment"):
        at = datetime.fromtimestamp(one["received_at"], UTC)
        with _forgotten():
            _awaited(other, one, at)
            verdict = _verdict(concentrator, one["frame"], at)
        if verdict != one["verdict"]:
            wrong[one["id"]] = verdict, one["verdict"]
    assert wrong == {}


def _awaited(concentrator: Concentrator, one: dict[str, Any], at: datetime) -> None:
    """The meter of a vector, which may enrol, with what was heard of it and of its authority before."""
    with _head_end_key(one["head_end_private"]):
        agreement_keys.init(one["audience"], OFFICER)
    _pin(one["authority"], at)
    MeterFactory.create(system_title=one["system_title"], commissioned_at=at)
    authorities.allow([one["system_title"]], OFFICER, at)
    if "revocation" in one:
        authorities.revoke(one["revocation"], OFFICER, at)
    _heard_before(concentrator, one)


@pytest.mark.parametrize("one", of_kind("uplink"), ids=lambda one: str(one["id"]))
def test_uplinks(one: dict[str, Any], db: None) -> None:
    concentrator = ConcentratorFactory.create()
    at = datetime.fromtimestamp(material.RECEIVED_S, UTC)
    encoding = one.get("content_encoding", "")
    if one["status"] != 202:
        with pytest.raises(reception.UplinkError):
            reception.receive(concentrator.pk, reception.decode(one["body"], encoding), at, lambda *_, **__: None)
        return
    receipt = reception.receive(concentrator.pk, reception.decode(one["body"], encoding), at, lambda *_, **__: None)
    assert receipt.frames == len(one["frames"])


# The simulator's meters do more schemes, use concentrators' titles, have a time, and their fleet's plan knows lengths.
OTHERWISE = (
    "command/set-interval/",
    "command/without-a-time",
    "command/set-concentrator",
    "command/set-key/scheme-that",
)


@pytest.mark.parametrize(
    "one",
    [one for one in of_kind("command") if not one["id"].startswith(OTHERWISE)],
    ids=lambda one: str(one["id"]),
)
def test_what_a_simulated_meter_does(one: dict[str, Any]) -> None:
    """The project's own meter agrees with the vectors that another one, in C, agrees with."""
    assert said(one) == [
        (step["says"], None if step["says"] == "nothing" else cbor2.loads(step["answer_payload"])[0][2])
        for step in one["steps"]
        if "command" in step
    ]
