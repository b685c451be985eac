"""EUI-64 identifiers as people and other systems write them: one parser for all doors."""

import re

OCTETS = 8
_PLAIN = re.compile(r"(?:0[xX])?([0-9a-fA-F]{16})", re.ASCII)
_BY_OCTET = re.compile(r"[0-9a-fA-F]{2}([-:. ])(?:[0-9a-fA-F]{2}\1){6}[0-9a-fA-F]{2}", re.ASCII)
_BY_TWO = re.compile(r"[0-9a-fA-F]{4}([-:. ])(?:[0-9a-fA-F]{4}\1){2}[0-9a-fA-F]{4}", re.ASCII)
_NUMBER = re.compile(r"\d+([.,]\d+)?[eE]\+?\d+", re.ASCII)


class Eui64Error(ValueError):
    """A text that is not an EUI-64; the message says what is wrong with it."""


def parse(text: str) -> bytes:
    """Return the 8 octets of 16 hex digits in either case: together, or in groups of 2 or 4 separated by `-`, `:`, `.`
    or a space. Eui64Error for any other form.
    """
    trimmed = text.strip().strip("\u200b\ufeff")
    if plain := _PLAIN.fullmatch(trimmed):
        return bytes.fromhex(plain[1])
    if _BY_OCTET.fullmatch(trimmed) or _BY_TWO.fullmatch(trimmed):
        return bytes.fromhex(re.sub(r"[-:. ]", "", trimmed))
    if _NUMBER.fullmatch(trimmed):
        raise Eui64Error(
            f"{text[:80]!r} is not 16 hex digits: a spreadsheet turned it into a number; format the column as text"
        )
    raise Eui64Error(f"{text[:80]!r} is not 16 hex digits")
