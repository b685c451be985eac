"""Envelope ``hop``: ``ccm`` frames that the meter's concentrator opens itself, and adds up (docs/schemes.md). Pure.

Such frames never reach the head-end: only simulated meters and concentrators seal and open them.
"""

from keyvault.cose.kdf import hop_key
from keyvault.cose.sealing import DirectionCipher


def hop_cipher(
    device_key: bytes, system_title: bytes, epoch: int, alg: int, concentrator_title: bytes
) -> DirectionCipher:
    """Return the cipher between a meter and the concentrator with a system title (8 octets)."""
    return DirectionCipher(hop_key(device_key, system_title, epoch, alg, concentrator_title), alg)
