"""Files of wrapped keys (docs/shipments.md): JSON Lines, plain or gzip; each line is checked by itself.

Messages never repeat the value of a key field: someone may have put a plain key there.
``shipments`` decrypts and imports what is read here, with the keys of ``shipment_kek``.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ami_headend.core import eui64
from ami_headend.core.csv_tables import BadLine, FileError, OnceEach, opened
from ami_headend.core.eui64 import Eui64Error
from ami_headend.core.text import counted
from keyvault.device_keys.fingerprints import FINGERPRINT_OCTETS
from keyvault.device_keys.shipment_kek import WRAPPED_OCTETS
from keyvault.schemes.agreed import PUBLIC_OCTETS, AgreementError, check_public
from keyvault.schemes.table import (
    SCHEMES,
    USUAL,
    SchemeError,
    algorithm_for,
    algorithm_name,
    algorithms_of,
    check_for_commands,
    has_key_sets,
    key_octets_of,
)

_LINE_MAX_OCTETS = 2_048
_WRAPPING_OCTETS = 8  # that wrapping adds (RFC 3394)
_SCHEME_MAX = 32  # characters of its name
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{2 * FINGERPRINT_OCTETS}}}", re.ASCII)
_SHIPMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/ -]{0,99}", re.ASCII)
_HEADER_FIELDS = {"shipment", "transport_key", "meters"}
_FIELDS = {"system_title", "epoch", "scheme", "algorithm", "key", "transfer_key", "transfer_algorithm", "public_key"}
_SET_FIELDS = {"system_title", "epoch", "scheme", "algorithm", "guek", "gak", "kek"}
_PUBLIC = re.compile(rf"[0-9a-f]{{{2 * PUBLIC_OCTETS}}}", re.ASCII)


class ShipmentError(ValueError):
    """A shipment that cannot be imported, or made, as a whole; the message says why."""


class ShipmentHeader(NamedTuple):
    """The first line: the shipment's name, its transport key's fingerprint (8 octets), and how many lines follow."""

    shipment: str
    transport_key: bytes
    meters: int


class ShipmentLine(NamedTuple):
    """The keys of one meter, wrapped (40 octets each); epoch and key are both given, or neither is.

    Or its X25519 public key (32 octets), which its keys are agreed on with; then nothing is wrapped. Of a key set
    ``key`` is GUEK and GAK one after the other, each wrapped by itself, or GUEK alone; ``transfer_key`` is the KEK.
    ``algorithm`` is the device key's; ``transfer_algorithm`` the transfer key's, None means the usual one.
    """

    line: int
    system_title: bytes
    epoch: int | None
    algorithm: int | None
    key: bytes | None
    transfer_key: bytes | None
    transfer_algorithm: int | None = None
    scheme: str | None = None
    public: bytes | None = None


class Shipment(NamedTuple):
    """The content of a file: header, valid lines, invalid lines, and the SHA-256 of the file."""

    header: ShipmentHeader
    lines: list[ShipmentLine]
    bad: list[BadLine]
    sha256: bytes


def read(path: Path) -> Shipment:
    """Read every line of a shipment; ShipmentError if the file is cut off, damaged, or no shipment."""
    try:
        with opened(path) as stream:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").digest()
            return _read(stream, sha256)
    except FileError as error:
        raise ShipmentError(str(error)) from None


def encode_header(header: ShipmentHeader) -> bytes:
    """Encode the first line of a shipment."""
    return _encode({"shipment": header.shipment, "transport_key": header.transport_key.hex(), "meters": header.meters})


def encode_line(line: ShipmentLine) -> bytes:
    """Encode the line of a meter."""
    fields: dict[str, Any] = {"system_title": line.system_title.hex()}
    if line.epoch is not None:
        fields["epoch"] = line.epoch
    if line.scheme is not None:
        fields["scheme"] = line.scheme
    for name in ("algorithm", "transfer_algorithm"):
        if (algorithm := getattr(line, name)) is not None:
            fields[name] = algorithm_name(algorithm)
    for name, wrapped in _named_keys(line):
        fields[name] = base64.b64encode(wrapped).decode()
    return _encode(fields)


def _named_keys(line: ShipmentLine) -> Iterator[tuple[str, bytes]]:
    """The wrapped keys of a line by the names of their fields."""
    is_set = line.scheme is not None and has_key_sets(line.scheme)
    if line.key is not None and is_set:
        yield from zip(("guek", "gak"), split_set(line), strict=False)
    elif line.key is not None:
        yield "key", line.key
    if line.transfer_key is not None:
        yield "kek" if is_set else "transfer_key", line.transfer_key


def split_set(line: ShipmentLine) -> list[bytes]:
    """The wrapped keys that a line's ``key`` consists of: one, or GUEK and GAK of a key set."""
    key, scheme = line.key or b"", line.scheme
    if scheme is None or not has_key_sets(scheme):
        return [key]
    each = _wrapped_octets(scheme, line.algorithm)
    return [key[start : start + each] for start in range(0, len(key), each)]


def _wrapped_octets(scheme: str, algorithm: int | None) -> int:
    """How many octets a wrapped key of a key set has: 24 for one of 16, 40 for one of 32."""
    return key_octets_of(scheme, algorithm_for(scheme, algorithm)) // 2 + _WRAPPING_OCTETS


def check_name(shipment: str) -> None:
    """Check the name of a shipment; ShipmentError if it is not allowed."""
    if not _SHIPMENT.fullmatch(shipment):
        raise ShipmentError(
            "a shipment's name has 1 to 100 letters, digits, spaces and . _ / -, a letter or digit first"
        )


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(", ", ": ")).encode() + b"\n"


def _read(stream: BinaryIO, sha256: bytes) -> Shipment:
    try:
        header = _header(stream.readline(_LINE_MAX_OCTETS))
    except ValueError as error:
        raise ShipmentError(f"line 1 is no header of a shipment: {error}") from None
    lines: list[ShipmentLine] = []
    bad: list[BadLine] = []
    once = OnceEach("system title")
    number = 1
    for number, octets in _numbered(stream, header):
        try:
            line = _line(number, octets)
            once.add(line.system_title, number)
            lines.append(line)
        except ValueError as error:
            bad.append(BadLine(number, str(error)))
    if number - 1 < header.meters:
        raise ShipmentError(
            f"the header says {counted(header.meters, 'meter')}, but "
            f"{counted(number - 1, 'line follows', 'lines follow')}: the file is cut off"
        )
    return Shipment(header, lines, bad, sha256)


def _numbered(stream: BinaryIO, header: ShipmentHeader) -> Iterator[tuple[int, bytes]]:
    for number in range(2, header.meters + 2):
        octets = stream.readline(_LINE_MAX_OCTETS)
        if not octets:
            return
        if len(octets) == _LINE_MAX_OCTETS and not octets.endswith(b"\n"):
            raise ShipmentError(f"line {number} is longer than {_LINE_MAX_OCTETS} octets: this is no shipment")
        yield number, octets
    if stream.read(1):
        raise ShipmentError(f"the header says {counted(header.meters, 'meter')}, but more lines follow")


def _object(octets: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(octets.decode(), object_pairs_hook=_once)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("it is not JSON in UTF-8") from None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands twice")
    return fields


def _refuse_unknown(fields: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(fields.keys() - known):
        raise ValueError(f"field {ascii(unknown[0])[:40]} is not one of {', '.join(sorted(known))}")


def _header(octets: bytes) -> ShipmentHeader:
    fields = _object(octets)
    _refuse_unknown(fields, _HEADER_FIELDS)
    if missing := sorted(_HEADER_FIELDS - fields.keys()):
        raise ValueError(f"{missing[0]} is missing")
    shipment, transport_key, meters = fields["shipment"], fields["transport_key"], fields["meters"]
    if not isinstance(shipment, str):
        raise ValueError("shipment is not text")
    check_name(shipment)
    if not isinstance(transport_key, str) or not _FINGERPRINT.fullmatch(transport_key):
        raise ValueError("transport_key is no fingerprint: 16 hex digits in lower case, never the key itself")
    if type(meters) is not int or meters < 1:
        raise ValueError("meters is not a whole number from 1")
    return ShipmentHeader(shipment, bytes.fromhex(transport_key), meters)


def _line(number: int, octets: bytes) -> ShipmentLine:
    fields = _object(octets)
    title = fields.get("system_title")
    if not isinstance(title, str):
        raise ValueError("system_title is not 16 hex digits")
    if fields.keys() & {"guek", "gak", "kek"}:
        return _line_of_set(number, title, fields)
    _refuse_unknown(fields, _FIELDS)
    if "public_key" in fields:
        return _agreed_line(number, _system_title(title), fields)
    if ("epoch" in fields) != ("key" in fields):
        raise ValueError("epoch and key go together: one of them is missing")
    epoch = _epoch(fields)
    if "transfer_algorithm" in fields and "transfer_key" not in fields:
        raise ValueError("transfer_algorithm stands without transfer_key")
    if "key" not in fields and "transfer_key" not in fields:
        raise ValueError("there is neither key nor transfer_key, nor public_key")
    if "scheme" in fields and "key" not in fields:
        raise ValueError("scheme stands without key")
    scheme = _scheme(fields)
    algorithm = _algorithm(fields, "algorithm", scheme or USUAL)
    transfer_algorithm = _algorithm(fields, "transfer_algorithm", USUAL)
    if transfer_algorithm is None and algorithm in algorithms_of(USUAL):
        transfer_algorithm = algorithm  # one for both keys
    return ShipmentLine(
        number,
        _system_title(title),
        epoch,
        algorithm,
        _wrapped(fields, "key"),
        _wrapped(fields, "transfer_key"),
        transfer_algorithm,
        scheme,
    )


def _agreed_line(number: int, system_title: bytes, fields: dict[str, Any]) -> ShipmentLine:
    """The line of a meter whose keys are agreed on: nothing secret is in it."""
    if others := sorted(fields.keys() & {"key", "transfer_key", "epoch", "transfer_algorithm"}):
        raise ValueError(f"{others[0]} stands beside public_key: the meter's keys follow from that alone")
    text = fields["public_key"]
    if not isinstance(text, str) or not _PUBLIC.fullmatch(text):
        raise ValueError(f"public_key is not {2 * PUBLIC_OCTETS} hex digits in lower case")
    public = bytes.fromhex(text)
    scheme = _scheme(fields)
    try:
        check_public(public)
        check_for_commands(scheme or USUAL)
    except (AgreementError, SchemeError) as error:
        raise ValueError(str(error)) from None
    if "agreed" not in SCHEMES[scheme or USUAL].sources:
        raise ValueError(f"scheme {scheme} takes no agreed keys")
    algorithm = _algorithm(fields, "algorithm", scheme or USUAL)
    return ShipmentLine(number, system_title, None, algorithm, None, None, scheme=scheme, public=public)


def _line_of_set(number: int, title: str, fields: dict[str, Any]) -> ShipmentLine:
    """A line of a DLMS meter: its key set, and perhaps its KEK."""
    _refuse_unknown(fields, _SET_FIELDS)
    scheme = _scheme(fields)
    if scheme is None or not has_key_sets(scheme):
        raise ValueError("guek, gak and kek are of DLMS meters: scheme says how they protect their frames")
    if "guek" not in fields or "epoch" not in fields:
        raise ValueError("guek and epoch are required with the scheme of a DLMS meter")
    is_needed = SCHEMES[scheme].is_authenticated
    if ("gak" in fields) < is_needed:
        raise ValueError(f"gak is required with scheme {scheme}: without it no tag can be checked")
    algorithm = _algorithm(fields, "algorithm", scheme)
    each = _wrapped_octets(scheme, algorithm)
    guek, gak, kek = (_wrapped(fields, name, each) for name in ("guek", "gak", "kek"))
    key = (guek or b"") + (gak or b"")
    return ShipmentLine(number, _system_title(title), _epoch(fields), algorithm, key, kek, None, scheme)


def _epoch(fields: dict[str, Any]) -> int | None:
    epoch = fields.get("epoch")
    if "epoch" in fields and (type(epoch) is not int or not 1 <= epoch <= 0xFFFF):
        raise ValueError("epoch is not a whole number from 1 to 65535")
    return epoch


def _system_title(text: str) -> bytes:
    try:
        return eui64.parse(text)
    except Eui64Error:
        raise ValueError("system_title is not 16 hex digits") from None  # never the value itself: it may be a key


def _scheme(fields: dict[str, Any]) -> str | None:
    if "scheme" not in fields:
        return None
    scheme = fields["scheme"]
    if not isinstance(scheme, str):
        raise ValueError("scheme is not text")
    try:
        algorithms_of(scheme[:_SCHEME_MAX])
    except SchemeError as error:
        raise ValueError(str(error)) from None
    return scheme


def _algorithm(fields: dict[str, Any], name: str, scheme: str) -> int | None:
    if name not in fields:
        return None
    by_name = {line.name: alg for alg, line in algorithms_of(scheme).items()}
    label = fields[name]
    if not (isinstance(label, str) and label in by_name):
        raise ValueError(f"{name} is not one of {', '.join(map(repr, by_name))}")
    return by_name[label]


def _wrapped(fields: dict[str, Any], name: str, right: int = WRAPPED_OCTETS) -> bytes | None:
    if name not in fields:
        return None
    text = fields[name]
    try:
        octets = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        octets = b""
    plain = right - _WRAPPING_OCTETS
    if len(octets) == plain:
        raise ValueError(f"{name} has {plain} octets, as a plain key has: it must be wrapped (RFC 3394)")
    if len(octets) != right:
        raise ValueError(f"{name} is not base64 of {right} octets (RFC 3394 wrapping of {plain})")
    return octets
