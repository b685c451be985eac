"""OBIS codes: one text for one code, and the catalogue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.readings.obis import STANDARD_REGISTERS, ObisCode, ObisError, RegisterKind, parse_obis

GROUP = st.integers(0, 255)


@given(GROUP, GROUP, GROUP, GROUP, GROUP)
def test_round_trip(a: int, b: int, c: int, d: int, e: int) -> None:
    code = ObisCode(a, b, c, d, e)
    assert parse_obis(str(code)) == code


@given(st.text(max_size=20))
def test_arbitrary_text(text: str) -> None:
    try:
        code = parse_obis(text)
    except ObisError:
        return
    assert str(code) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1-0:1.8",
        "1-0:1.8.0*255",
        "1-0:1.8.0.255",
        "01-0:1.8.0",
        "1-0:1.8.00",
        "256-0:1.8.0",
        "1-0:1.8.0 ",
        "1-0:1.8.0\n",
        "1.0.1.8.0",
        "1-0:1.8.-1",
        "1-0:1.8.٣",
    ],
)
def test_other_forms(text: str) -> None:
    with pytest.raises(ObisError):
        parse_obis(text)


def test_catalogue() -> None:
    codes = [register.obis_code for register in STANDARD_REGISTERS]
    assert len(set(codes)) == len(codes)
    kinds = {register.obis_code: register.kind for register in STANDARD_REGISTERS}
    assert kinds["1-0:1.8.0"] is RegisterKind.CUMULATIVE
    assert kinds["1-0:1.29.0"] is RegisterKind.INTERVAL
    for register in STANDARD_REGISTERS:
        assert str(parse_obis(register.obis_code)) == register.obis_code
        group_c_to_e = parse_obis(register.obis_code)[2:]
        assert (register.kind is RegisterKind.INTERVAL) == (group_c_to_e[1] == 29)
        assert (register.kind is RegisterKind.EVENT) == (group_c_to_e[0] == 96)
