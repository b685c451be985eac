"""The form of bearer tokens: the kind, maybe the cell, 256 random bits; and which cell a token names."""

import re

import pytest

from ami_headend.core import bearer

RANDOM = "b_" + "A" * 41  # as long as what is random, and it looks as if it named a cell


@pytest.mark.parametrize("cell", ["", "a", "north7", "x" * 16])
def test_a_token_names_its_cell(cell: str) -> None:
    of_concentrator = bearer.new(bearer.CONCENTRATOR, cell)
    of_program = bearer.with_checksum(bearer.new(bearer.PROGRAM, cell))
    named = f"{cell}_" if cell else ""
    assert re.fullmatch(rf"dcu_{named}[A-Za-z0-9_-]{{43}}", of_concentrator)
    assert re.fullmatch(rf"ami_{named}[A-Za-z0-9_-]{{43}}[0-9a-f]{{8}}", of_program)
    assert bearer.cell_of(of_concentrator) == bearer.cell_of(of_program) == cell
    assert bearer.is_whole(of_program)


def test_what_is_random_names_no_cell() -> None:
    for token in (f"dcu_{RANDOM}", f"ami_{RANDOM}{'0' * 8}"):
        assert bearer.cell_of(token) == ""


@pytest.mark.parametrize(
    "token",
    [
        "",
        "dcu_",
        "dcu_a_",
        f"dcu_a_{RANDOM}x",
        f"dcu_A_{RANDOM}",
        f"dcu_{'x' * 17}_{RANDOM}",
        f"dcu_a_{RANDOM}\n",
        f"dcu_\N{FULLWIDTH LATIN SMALL LETTER A}_{RANDOM}",
        f"ami_a_{RANDOM}",
        f"ami_a_{RANDOM}0000000G",
        f"xyz_a_{RANDOM}",
    ],
)
def test_what_is_no_token_names_no_cell(token: str) -> None:
    assert bearer.cell_of(token) == ""


@pytest.mark.parametrize(("name", "may_be"), [("a", True), ("x" * 16, True), ("x" * 17, False), ("A", False)])
def test_names_of_cells(name: str, may_be: bool) -> None:
    assert bearer.is_cell(name) is may_be
