"""Text of people: how long a note is, and what stands on one line, so that no name forges a line of a log."""

from django.core.exceptions import ValidationError

NOTE_LENGTH = 1_000  # characters: of a note, a comment or a reason, as the columns of models hold it


def is_note(text: str) -> bool:
    """Whether it says something, in at most ``NOTE_LENGTH`` characters."""
    return bool(text.strip()) and len(text) <= NOTE_LENGTH


def check_one_line(name: str) -> None:
    """ValidationError for a name with a line break, or anything else that does not print. For fields of models."""
    if not name.isprintable():
        raise ValidationError("A name is one line of characters that print: it holds a line break or the like.")


def one_line(text: str) -> str:
    """The text with every character that does not print written out, as a line break, an escape, a mark of direction.

    What prints stays as it is, in any script; a backslash stays a backslash.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
