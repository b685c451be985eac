"""Key source ``derived``: the device key is computed from its fleet key (docs/frame.md section 3). Pure."""

from keyvault.cose.kdf import derived_device_key
from keyvault.schemes.lines import KeyInputs, Source


def _device_key(inputs: KeyInputs) -> bytes:
    return derived_device_key(inputs.kept, inputs.system_title, inputs.epoch)


DERIVED = Source("derived", is_of_fleet=True, device_key=_device_key, reference="HKDF, RFC 5869")
