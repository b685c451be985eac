"""A note says something, and no more than its column holds."""

import pytest

from ami_headend.core.text import NOTE_LENGTH, is_note


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), (" \n", False), ("x", True), ("x" * NOTE_LENGTH, True), ("x" * (NOTE_LENGTH + 1), False)],
)
def test_a_note_says_something_at_no_great_length(text: str, expected: bool) -> None:
    assert is_note(text) is expected
