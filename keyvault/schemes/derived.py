"""Key source ``derived``: the device key is computed from its fleet key (docs/frame.md section 3). Pure."""

from keyvault.cose.kdf import DEVICE_KEY_OCTETS, derived_device_key
from keyvault.schemes.lines import Source

DERIVED = Source(
    "derived", DEVICE_KEY_OCTETS, is_of_fleet=True, device_key=derived_device_key, reference="HKDF, RFC 5869"
)
