"""One parser for EUI-64 identifiers."""

import pytest

from ami_headend.core import eui64
from ami_headend.core.eui64 import Eui64Error

TITLE = bytes.fromhex("0024befffe804ff1")


@pytest.mark.parametrize(
    "text",
    [
        "0024befffe804ff1",
        "0024BEFFFE804FF1",
        "00-24-be-ff-fe-80-4f-f1",
        "00:24:BE:FF:FE:80:4F:F1",
        "00.24.be.ff.fe.80.4f.f1",
        "00 24 be ff fe 80 4f f1",
        "0024.beff.fe80.4ff1",
        "0024:beff:fe80:4ff1",
        "0x0024befffe804ff1",
        " 0024befffe804ff1\t",
        "\ufeff0024befffe804ff1\u200b",
    ],
)
def test_the_forms_that_are_written(text: str) -> None:
    assert eui64.parse(text) == TITLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0024befffe804ff",
        "0024befffe804ff12",
        "0024befffe804ffg",
        "00-24:be-ff-fe-80-4f-f1",
        "002-4be-fff-e80-4ff-1",
        "00--24-be-ff-fe-80-4f-f1",
        "\uff10024befffe804ff1",
        "0024befffe80-4ff1",
    ],
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(Eui64Error, match=r"is not 16 hex digits$"):
        eui64.parse(text)


@pytest.mark.parametrize("text", ["2.4E+13", "2,4E+13", "24E13"])
def test_what_a_spreadsheet_has_made_of_it_is_told(text: str) -> None:
    with pytest.raises(Eui64Error, match="a spreadsheet turned it into a number"):
        eui64.parse(text)
