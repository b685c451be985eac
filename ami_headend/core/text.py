"""Text of people: the length of notes, and names on one line, which cannot forge a line of a log."""

from collections.abc import Sequence

from django.core.exceptions import ValidationError

NOTE_LENGTH = 1_000  # characters of a note, a comment or a reason, as columns of models hold them


def is_note(text: str) -> bool:
    """Whether a text is not blank and has at most ``NOTE_LENGTH`` characters."""
    return bool(text.strip()) and len(text) <= NOTE_LENGTH


def check_one_line(name: str) -> None:
    """ValidationError for a name with a line break or another unprintable character. For fields of models."""
    if not name.isprintable():
        raise ValidationError("A name is one line of printable characters: this one holds a line break or the like.")


def one_line(text: str) -> str:
    """Return the text with every unprintable character escaped, such as line breaks, escapes and marks of direction.

    Printable characters of any script stay unchanged, backslashes too.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, which is in the plural unless there is one: "1 meter", "1,200 meters"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first texts of a list, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more
