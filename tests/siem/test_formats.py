"""Security events as octets: RFC 5424 and CEF, their escapes, and the length that a receiver takes. No database."""

import re
from datetime import UTC, datetime

import pytest

from ami_headend.siem.events import NOTICE, Event
from ami_headend.siem.formats import FORMATS, MESSAGE_OCTETS_MAX, cef, framed, plain

AT = datetime(2026, 11, 30, 21, 5, 7, 89, UTC)
EVENT = Event(
    id="audit-17-ab12", kind="audit", at=AT, severity=NOTICE, act="token.issue", actor="ann", source="192.0.2.7",
    outcome="done", text="ann did token.issue: done", details={"number": "17", "subject": '{"a":"b]"}'},
)  # fmt: skip
# RFC 5424 section 6: header, structured data, BOM and text.
_SYNTAX = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) ([!-~]{1,48}) (-) ([!-~]{1,32}) "
    rb"(\[(?:[^\]\\]|\\.)*\]|-) (.*)", re.DOTALL
)  # fmt: skip


def test_a_message_of_rfc_5424_octet_for_octet() -> None:
    assert plain(EVENT, "headend.example", "32473") == (
        b"<109>1 2026-11-30T21:05:07.000089Z headend.example ami-headend - audit "
        b'[event@32473 id="audit-17-ab12" act="token.issue" actor="ann" source="192.0.2.7" outcome="done" number="17" '
        b'subject="{\\"a\\":\\"b\\]\\"}"] \xef\xbb\xbfann did token.issue: done'
    )


def test_a_message_with_cef_octet_for_octet() -> None:
    assert cef(EVENT, "headend.example", "32473") == (
        b"<109>1 2026-11-30T21:05:07.000089Z headend.example ami-headend - audit - "
        b"CEF:0|ami-headend|ami-headend|0|audit:token.issue|ann did token.issue: done|3|externalId=audit-17-ab12 "
        b'rt=1796072707000 act=token.issue suser=ann src=192.0.2.7 outcome=done cn1=17 cs1={"a":"b]"} '
        b"cs1Label=subject cn1Label=number"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_no_name_forges_a_line_a_field_or_a_mark(name: str) -> None:
    evil = 'x\n<34>1 forged "] [y@1 id="z" \\ | = \u202e\x00'
    event = EVENT._replace(actor=evil, text=evil, act=evil, details={"subject": evil})
    message = FORMATS[name](event, "head end\n", "32473")
    found = _SYNTAX.fullmatch(message)
    assert found is not None
    assert found[3] == b"headend"
    assert not re.search(rb"[\x00-\x1f]", message)
    if name == "rfc5424":
        values = re.findall(rb'(\w+)="((?:[^"\\\]]|\\["\\\]])*)"', found[7])
        assert [key for key, _ in values] == [b"id", b"act", b"actor", b"source", b"outcome", b"subject"]
    else:
        assert found[8].startswith(b"CEF:0|")
        assert re.match(rb"CEF:0(\|(?:[^|\\]|\\[|\\])*){5}\|3\|externalId=", found[8])
        assert re.search(rb"suser=x <34>1 forged", found[8])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("long", ["x" * 20_000, "\u00e9" * 9_000, '"]\\' * 9_000, "=|" * 9_000])
def test_what_is_too_long_is_cut_and_keeps_its_id(name: str, long: str) -> None:
    for event in (EVENT._replace(details={"subject": long, "number": "17"}), EVENT._replace(text=long, details={})):
        message = FORMATS[name](event, "headend.example", "32473")
        assert len(message) <= MESSAGE_OCTETS_MAX
        assert b"audit-17-ab12" in message
        assert b"..." in message
        assert _SYNTAX.fullmatch(message) is not None
        message.decode()


def test_octets_are_counted() -> None:
    assert framed("h\u00e9".encode()) == b"3 h\xc3\xa9"
