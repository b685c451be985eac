"""The links that carry a simulated DLMS meter's frames: HDLC, M-Bus, the TCP wrapper. Pure (docs/dlms.md section 1)."""

from enum import StrEnum

from keyvault.schemes.dlms.crc import crc_x25
from keyvault.schemes.dlms.framing import LLC

_HDLC_SEGMENT, _MBUS_SEGMENT = 64, 80  # octets: so that what meters push takes more than one


class DlmsLink(StrEnum):
    """A link between a meter and its concentrator."""

    HDLC = "hdlc"
    MBUS = "mbus"
    WRAPPER = "wrapper"


def general_glo(title: bytes, said: bytes) -> bytes:
    """A general-glo-ciphering APDU around SC, counter, ciphertext and tag (Green Book Ed. 8 section 9.2.7)."""
    return b"\xdb\x08" + title + b"\x82" + len(said).to_bytes(2, "big") + said


def carried(apdu: bytes, link: DlmsLink) -> bytes:
    """The octets of an APDU on a link, with all its segments."""
    match link:
        case DlmsLink.HDLC:
            return _hdlc(LLC + apdu)
        case DlmsLink.MBUS:
            return _mbus(apdu)
        case DlmsLink.WRAPPER:
            return b"\x00\x01\x00\x01\x00\x67" + len(apdu).to_bytes(2, "big") + apdu


def _hdlc(information: bytes) -> bytes:
    """Frames of type 3 with one flag between them (ISO/IEC 13239, IEC 62056-46); S says that a segment follows."""
    parts = _parts(information, _HDLC_SEGMENT)
    frames = [b"\x7e"]
    for number, part in enumerate(parts, 1):
        format_ = 0xA000 | 0x0800 * (number < len(parts)) | len(part) + 9
        head = format_.to_bytes(2, "big") + b"\x03\x23\x13"  # destination, source, control: UI
        checked = head + crc_x25(head).to_bytes(2, "little") + part
        frames.append(checked + crc_x25(checked).to_bytes(2, "little") + b"\x7e")
    return b"".join(frames)


def _mbus(data: bytes) -> bytes:
    """Long frames (EN 13757-2): 68 L L 68 C A CI STSAP DTSAP data checksum 16."""
    parts = _parts(data, _MBUS_SEGMENT)
    frames = []
    for number, part in enumerate(parts):
        information = number % 16 + 0x10 * (number == len(parts) - 1)
        counted = bytes((0x53, 0xFF, information, 0x01, 0x67)) + part
        length = bytes((len(counted),))
        frames.append(b"\x68" + 2 * length + b"\x68" + counted + bytes((sum(counted) & 0xFF, 0x16)))
    return b"".join(frames)


def _parts(octets: bytes, size: int) -> list[bytes]:
    return [octets[at : at + size] for at in range(0, len(octets), size)]
