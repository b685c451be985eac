"""Keys for the signed schemes come by every door and from every source, through the tables alone."""

from typing import Any

import cbor2
import pytest

from concentrators.models import Concentrator
from keyvault.cose.kdf import downlink_key
from keyvault.cose.sealing import DirectionCipher
from keyvault.cose.structures import parse_frame
from keyvault.device_keys import command_sealing, epochs
from keyvault.device_keys.command_sealing import KeyCommand
from keyvault.device_keys.provisioning import NewKey, provision_stored
from keyvault.models import AgreementKey, DeviceKey
from keyvault.schemes.table import SCHEMES, algorithm_for, needs_agreement_key, scheme_choices
from tests.concentrators import test_scheme_sources as sources
from tests.concentrators.fleet import NOW, Device, judged
from tests.concentrators.scheme_devices import announce, signing

pytestmark = pytest.mark.django_db
SIGNED = {"ccm + signed": 5, "session + signed": 7, "sealed + signed": 8}


def test_they_are_offered_wherever_a_scheme_is_chosen() -> None:
    offered = dict(scheme_choices())
    for name, number in SIGNED.items():
        assert (offered[name], SCHEMES[name].number, SCHEMES[name].content) == (name, number, "signed")
        assert algorithm_for(name) == algorithm_for(name.partition(" + ")[0])
        assert needs_agreement_key(name) == name.startswith("sealed")


@pytest.mark.parametrize("source", ["stored", "derived", "agreed"])
@pytest.mark.parametrize("envelope", ["ccm", "session", "sealed"])
def test_from_every_source(concentrator: Concentrator, envelope: str, source: str) -> None:
    device = signing(sources.provisioned(concentrator, envelope, source))
    announce(device)
    frame = device.frame(0)
    assert judged(concentrator, [frame, frame]) == {"accepted": 1, "duplicate": 1}
    assert (device.row().scheme, device.row().source) == (f"{envelope} + signed", source)


@pytest.mark.parametrize("scheme", SIGNED)
def test_a_rotation_tells_the_meter_its_number(concentrator: Concentrator, scheme: str) -> None:
    device = sources.provisioned(concentrator, "sealed", "stored")  # which makes an agreement key
    transfer = bytes(range(32))
    provision_stored([NewKey(device.title, 0, transfer)])
    epochs.begin([device.title], scheme=scheme)
    row = DeviceKey.objects.get(system_title=device.title, epoch=2)
    assert (row.scheme, row.agreement_key_id is not None) == (scheme, scheme.startswith("sealed"))
    sealed = command_sealing.seal([KeyCommand(7, device.title, 2)], NOW)[7]
    fields = _opened(sealed.octets, transfer, device)
    assert (fields[:3], fields[4:6]) == ([1, 7, 2], [algorithm_for(scheme), SIGNED[scheme]])
    head_end = [bytes(AgreementKey.objects.get().public)] if scheme.startswith("sealed") else []
    assert fields[6:] == head_end


def _opened(octets: bytes, transfer_key: bytes, device: Device) -> list[Any]:
    frame = parse_frame(octets)
    cipher = DirectionCipher(downlink_key(transfer_key, device.title, 0, frame.alg), frame.alg)
    found: list[Any] = cbor2.loads(cipher.open_(frame))
    return found
