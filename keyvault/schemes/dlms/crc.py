"""Checksums of links: CRC-16/X.25 of HDLC (ISO/IEC 13239 section 4.2.5.2), CRC-16/ARC of P1 telegrams. Pure."""

import binascii

_MIRRORED = bytes(int(f"{octet:08b}"[::-1], 2) for octet in range(256))


def crc_x25(octets: bytes) -> int:
    """The frame check sequence of HDLC over some octets; on the wire its low octet comes first.

    The register runs mirrored, so that the library's CRC of the same polynomial does the work.
    """
    return _mirrored(binascii.crc_hqx(octets.translate(_MIRRORED), 0xFFFF)) ^ 0xFFFF


def _mirrored(register: int) -> int:
    return _MIRRORED[register >> 8] | _MIRRORED[register & 0xFF] << 8


def _arc_step(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ 0xA001 * (octet & 1)
    return octet


_ARC = tuple(map(_arc_step, range(256)))


def crc_arc(octets: bytes) -> int:
    """The checksum of a P1 telegram over the octets from ``/`` to ``!`` (DSMR 5.0.2 P1 section 5.2)."""
    register = 0
    for octet in octets:
        register = register >> 8 ^ _ARC[(register ^ octet) & 0xFF]
    return register
