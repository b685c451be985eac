"""Password hashes one at a time, so that guesses use at most one core of a process."""

import threading
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher

_turn = threading.Lock()


class OneAtATime(PBKDF2PasswordHasher):
    """Django's own hasher and format, with a lock around it."""

    def encode(self, *arguments: Any, **options: Any) -> str:
        with _turn:
            return super().encode(*arguments, **options)
