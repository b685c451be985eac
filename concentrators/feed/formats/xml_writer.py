"""Writes XML element by element, so that a long document never stands in memory as a whole. Pure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from xml.sax.saxutils import escape, quoteattr

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
# What XML 1.0 (section 2.2) does not have. Nothing else could be sent instead: the character is replaced.
_NO_CHARACTER = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class XmlWriter:
    """Elements in the order of the calls; names may have a prefix that an attribute declares."""

    def __init__(self) -> None:
        self._parts = [_DECLARATION]

    @contextmanager
    def element(self, name: str, **attributes: str) -> Iterator[None]:
        """Write an element around what is written inside the block; ``xmlns_cim`` is the attribute ``xmlns:cim``."""
        self._parts.append(f"<{name}{_written(attributes)}>")
        yield
        self._parts.append(f"</{name}>")

    def leaf(self, name: str, text: object = "", **attributes: str) -> None:
        """Write an element with text, or an empty one."""
        content = escape(_NO_CHARACTER.sub("\ufffd", str(text)))
        end = f">{content}</{name}>" if content else "/>"
        self._parts.append(f"<{name}{_written(attributes)}{end}")

    def take(self) -> bytes:
        """Return what was written since the last call, in UTF-8."""
        octets = "".join(self._parts).encode()
        self._parts.clear()
        return octets


def _written(attributes: dict[str, str]) -> str:
    texts = (
        f" {name.replace('_', ':')}={quoteattr(_NO_CHARACTER.sub(chr(0xFFFD), value))}"
        for name, value in attributes.items()
    )
    return "".join(texts)
