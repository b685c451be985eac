"""Envelope ``hop``: ``ccm`` frames that the meter's concentrator opens itself, and adds up (docs/schemes.md). Pure.

Such frames never reach the head-end, so that no key that it holds is of this envelope: who plays meters and
concentrators seals and opens them.
"""

from keyvault.cose.kdf import hop_key
from keyvault.cose.sealing import DirectionCipher


def hop_cipher(
    device_key: bytes, system_title: bytes, epoch: int, alg: int, concentrator_title: bytes
) -> DirectionCipher:
    """What seals at the meter, and opens at the concentrator with that system title (8 octets)."""
    return DirectionCipher(hop_key(device_key, system_title, epoch, alg, concentrator_title), alg)
