"""Security events as octets: syslog messages (RFC 5424), with a text or CEF inside. Pure."""

import re
from collections.abc import Callable
from datetime import UTC

from ami_headend.siem.events import CRITICAL, INFORMATIONAL, NOTICE, WARNING, Event

MESSAGE_OCTETS_MAX = 8192  # what a receiver should take at least (RFC 5425 section 4.3.1)
APP_NAME = "ami-headend"
_FACILITIES = {"audit": 13, "sign-in": 10}  # log audit; security and authorisation (RFC 5424 section 6.2.1)
_OTHER_FACILITY = 16  # local use 0
_BOM = b"\xef\xbb\xbf"  # the text is UTF-8
_CUT = "..."
_OF_CEF = {CRITICAL: 9, WARNING: 6, NOTICE: 3, INFORMATIONAL: 2}
_NAMES_OF_CEF = {"subject": "cs1", "note": "cs2", "number": "cn1", "attempts": "cnt", "frames": "cnt"}
_PRINTABLE = re.compile(r"[^!-~]")

Format = Callable[[Event, str, str], bytes]


def plain(event: Event, host: str, enterprise: str) -> bytes:
    """Return a message whose details are structured data, under the enterprise number, and whose text is for people."""
    return _fitted(event, host, lambda one: (_structured(one, enterprise), _BOM + _one_line(one.text).encode()))


def cef(event: Event, host: str, enterprise: str) -> bytes:
    """Return a message with an ArcSight Common Event Format (version 0) record as its text."""
    return _fitted(event, host, lambda one: ("-", _cef(one).encode()))


FORMATS: dict[str, Format] = {"rfc5424": plain, "cef": cef}


def framed(message: bytes) -> bytes:
    """Return a message with its length before it (RFC 5425 section 4.3)."""
    return b"%d %s" % (len(message), message)


def _fitted(event: Event, host: str, body: Callable[[Event], tuple[str, bytes]]) -> bytes:
    """Return the message; details that make it too long are cut, the longest first, and say so."""
    while True:
        structured, text = body(event)
        message = b" ".join([_header(event, host).encode(), structured.encode(), text])
        too_many = len(message) - MESSAGE_OCTETS_MAX
        if too_many <= 0:
            return message
        event = _shortened(event, too_many)


def _shortened(event: Event, octets: int) -> Event:
    """Cut the longest text of an event by at least so many octets, escapes left aside; its marks stay."""
    texts = {**event.details, "text": event.text}
    longest = max(texts, key=lambda name: len(texts[name].encode()))
    value = texts[longest].encode()
    kept = value[: max(0, len(value) - octets - len(_CUT) - 8)].decode("utf-8", "ignore") + _CUT
    if longest == "text":
        return event._replace(text=kept)
    return event._replace(details={**event.details, longest: kept})


def _header(event: Event, host: str) -> str:
    priority = _FACILITIES.get(event.kind, _OTHER_FACILITY) * 8 + event.severity
    at = event.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"<{priority}>1 {at} {_name(host, 255)} {APP_NAME} - {_name(event.kind, 32)}"


def _name(text: str, characters: int) -> str:
    """Return a text as a field of the header: printable ASCII without spaces; - if nothing is left."""
    return _PRINTABLE.sub("", text)[:characters] or "-"


def _structured(event: Event, enterprise: str) -> str:
    named = {
        "id": event.id,
        "act": event.act,
        "actor": event.actor,
        "source": event.source,
        "outcome": event.outcome,
        **event.details,
    }
    told = " ".join(f'{name}="{_escaped(value)}"' for name, value in named.items() if value)
    return f"[event@{enterprise} {told}]"


def _escaped(value: str) -> str:
    """Escape a value of structured data (RFC 5424 section 6.3.3)."""
    return re.sub(r'(["\\\]])', r"\\\1", _one_line(value))


def _one_line(text: str) -> str:
    """Replace control characters, so that no name forges a line of the receiver's log."""
    return "".join(one if one.isprintable() else " " for one in text)


def _cef(event: Event) -> str:
    head = ["CEF:0", APP_NAME, APP_NAME, "0", f"{event.kind}:{event.act}", event.text]
    extension = {
        "externalId": event.id,
        "rt": str(int(event.at.timestamp() * 1000)),
        "act": event.act,
        "suser": event.actor,
        "src" if re.fullmatch(r"[0-9.]{7,15}", event.source) else "shost": event.source,
        "outcome": event.outcome,
        **{_NAMES_OF_CEF[name]: value for name, value in event.details.items() if name in _NAMES_OF_CEF},
    }
    labels = {f"{name}Label": label for label, name in _NAMES_OF_CEF.items() if name in extension and name != "cnt"}
    told = " ".join(f"{name}={_in_extension(value)}" for name, value in {**extension, **labels}.items() if value)
    return "|".join([*map(_in_head, head), str(_OF_CEF[event.severity]), told])


def _in_head(text: str) -> str:
    return re.sub(r"([\\|])", r"\\\1", _one_line(text))


def _in_extension(text: str) -> str:
    return re.sub(r"([\\=])", r"\\\1", _one_line(text))
