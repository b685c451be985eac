"""Fleets of every scheme: their keys, put into the vault of a site."""

import secrets
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench import fleet as fleets
from bench.fleet import ALG, EPOCH, Meter
from bench.scheme_meters import DlmsMeter, MacMeter, ReportedMeter, SealedMeter, SessionMeter
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, provisioning
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AgreementKey
from keyvault.schemes.agreed import AGREED, agree, agreed_device_key
from keyvault.schemes.table import CONCENTRATOR, HOP, USUAL, algorithm_for
from meters.readings import push_profiles
from meters.readings.push_profiles import ProfileWish

KINDS = (USUAL, "session", "mac", HOP, AGREED.name, "sealed")
DLMS = "dlms"
MIXED, MIXED_WITH_DLMS = "mixed", "ccm and dlms"
# Meters of several kinds by turns, so that every uplink has all of them.
_TURNS = {MIXED: KINDS, MIXED_WITH_DLMS: (USUAL, DLMS)}
DEFINITION = {"kind": "obis", "clock": {"from": "apdu"}}  # of what DLMS meters push: codes, scalers, units are in it
_GUEK_AND_GAK_OCTETS = 32
_SLICE = 20_000


@dataclass(frozen=True)
class Provisioned:
    """The meters by concentrator, and the system titles of concentrators that report."""

    meters: list[list[Meter]]
    reporters: list[bytes | None]


def provision(executor: ProcessPoolExecutor, kinds: Sequence[str], titles: Sequence[Sequence[bytes]]) -> Provisioned:
    """Give the meters of those titles, by concentrator, keys through the vault: each concentrator's of a kind.

    A kind is of KINDS, DLMS, or several by turns. In the site's database, with an agreement key of its own. Epoch 0
    comes as well.
    """
    by_kind: dict[str, list[bytes]] = {}
    for kind, block in zip(kinds, titles, strict=True):
        turns = _TURNS.get(kind, (kind,))
        for position, title in enumerate(block):
            by_kind.setdefault(turns[position % len(turns)], []).append(title)
    meters: dict[bytes, Meter] = {}
    _store([NewKey(title, TRANSFER_EPOCH) for block in titles for title in block])
    for kind, its in by_kind.items():
        if kind == AGREED.name:
            meters |= _agreed(executor, its)
        elif kind == HOP:
            _store([NewKey(title, EPOCH, None, ALG, HOP) for title in its])
        else:
            meters |= _stored(executor, kind, its)
    of_hop = set(by_kind.get(HOP, ()))
    reporters: list[bytes | None] = []
    for block in titles:
        reported = _reported([title for title in block if title in of_hop])
        reporters.append(reported[0].reporter if reported else None)
        meters |= {meter.title: meter for meter in reported}
    return Provisioned([[meters[title] for title in block] for block in titles], reporters)


def _stored(executor: ProcessPoolExecutor, scheme: str, titles: Sequence[bytes]) -> dict[bytes, Meter]:
    if scheme == DLMS:
        return _pushing(titles)
    keys = {title: secrets.token_bytes(32) for title in titles}
    version = _agreement_key() if scheme == "sealed" else None
    number = None if version is None else version.pk
    alg = algorithm_for(scheme)
    _store([NewKey(title, EPOCH, key, alg, scheme, number) for title, key in keys.items()])
    if version is not None:
        return {title: SealedMeter(title, key, bytes(version.public)) for title, key in keys.items()}
    if scheme == USUAL:
        return _by_title(executor, keys)
    if scheme == "session":
        return {title: SessionMeter(title, key) for title, key in keys.items()}
    return {title: MacMeter(title, key) for title, key in keys.items()}


def _pushing(titles: Sequence[bytes]) -> dict[bytes, Meter]:
    """DLMS meters of one manufacturer, whose notifications a push profile reads."""
    meters = {title: DlmsMeter(title, secrets.token_bytes(_GUEK_AND_GAK_OCTETS)) for title in titles}
    _store([NewKey(title, EPOCH, meter.keys, algorithm_for(DLMS), DLMS) for title, meter in meters.items()])
    title = titles[0]
    sample = meters[title].payload(0, 0, 0)
    push_profiles.add(
        ProfileWish(f"bench {title.hex()}", title[:3], DEFINITION, sample, title), Actor("bench", "bench")
    )
    return dict(meters)


def _agreed(executor: ProcessPoolExecutor, titles: Sequence[bytes]) -> dict[bytes, Meter]:
    version = _agreement_key()
    head_end = bytes(version.public)
    publics, keys = {}, {}
    for title in titles:
        private = X25519PrivateKey.generate()
        public = publics[title] = private.public_key().public_bytes_raw()
        keys[title] = agreed_device_key(agree(private, head_end), title, EPOCH, public, head_end)
    for at in range(0, len(titles), _SLICE):
        entries = [NewKey(title, EPOCH, None, ALG, USUAL, version.pk) for title in titles[at : at + _SLICE]]
        provisioning.provision_agreed(entries, {entry.system_title: publics[entry.system_title] for entry in entries})
    return _by_title(executor, keys)


def _reported(titles: Sequence[bytes]) -> list[ReportedMeter]:
    """The meters that one concentrator reports for, if any: then it gets a title and a key."""
    if not titles:
        return []
    reporter, key = b"\x06" + secrets.token_bytes(7), secrets.token_bytes(32)
    _store([NewKey(reporter, EPOCH, key, ALG, CONCENTRATOR)])
    return [ReportedMeter(title, reporter, key, place, len(titles)) for place, title in enumerate(titles)]


def _by_title(executor: ProcessPoolExecutor, keys: dict[bytes, bytes]) -> dict[bytes, Meter]:
    titles = list(keys)
    slices = [titles[at : at + _SLICE] for at in range(0, len(titles), _SLICE)]
    derived = executor.map(fleets.derive, slices, [[keys[title] for title in part] for part in slices])
    return {meter.kid[:8]: meter for part in derived for meter in part}


def _agreement_key() -> AgreementKey:
    return AgreementKey.objects.first() or agreement_keys.init("bench", Actor("bench", "bench"))


def _store(entries: Sequence[NewKey]) -> None:
    for at in range(0, len(entries), _SLICE):
        provisioning.provision_stored(entries[at : at + _SLICE])
