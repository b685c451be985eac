"""Passwords in lists of stolen ones, looked up offline."""

import hashlib
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ValidationError

_DIGITS = 40  # hex digits of a SHA-1


class BreachedPasswordValidator:
    """Refuses passwords in BREACHED_PASSWORDS_FILE: sorted lines ``SHA-1:count``, as Have I Been Pwned publishes them.

    That file has a thousand million lines, so it is never loaded: a binary search takes some 40 reads. SHA-1 is only
    the list's notation of passwords. Without the setting, Django's list of 20,000 common passwords remains.
    """

    def validate(self, password: str, user: object = None) -> None:
        path = settings.BREACHED_PASSWORDS_FILE
        if path and stands_in(Path(path), password):
            raise ValidationError("This password is in a list of stolen ones: choose another.", code="breached")

    def get_help_text(self) -> str:
        return "Your password cannot be in a list of stolen ones."


def stands_in(path: Path, password: str) -> bool:
    """Whether a password is in the list; OSError if the file cannot be read."""
    wanted = hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper().encode()
    with path.open("rb") as lines:
        low, high = 0, path.stat().st_size
        while low < high:
            middle = (low + high) // 2
            if middle:
                lines.seek(middle - 1)
                lines.readline()  # the rest of a line that began before
            else:
                lines.seek(0)
            found = lines.readline()[:_DIGITS].upper()
            if found and found < wanted:
                low = lines.tell()
            else:
                high = middle
        lines.seek(low)
        return lines.readline()[:_DIGITS].upper() == wanted
