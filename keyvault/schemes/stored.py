"""Key source ``stored``: the device key itself lies wrapped in its row. Pure."""

from keyvault.cose.kdf import DEVICE_KEY_OCTETS
from keyvault.schemes.lines import Source


def _device_key(secret: bytes, system_title: bytes, epoch: int) -> bytes:
    return secret


STORED = Source("stored", DEVICE_KEY_OCTETS, is_of_fleet=False, device_key=_device_key, reference="random")
