"""Password hashes one at a time: guesses cost one core of a process at most, and concentrators keep the others."""

import threading
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher

_turn = threading.Lock()


class OneAtATime(PBKDF2PasswordHasher):
    """Django's own hasher, its format included; whoever comes meanwhile waits."""

    def encode(self, *arguments: Any, **options: Any) -> str:
        with _turn:
            return super().encode(*arguments, **options)
