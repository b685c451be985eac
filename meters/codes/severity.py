"""How bad something is. Pure."""

from enum import IntEnum


class Severity(IntEnum):
    INFO = 10
    WARNING = 20
    CRITICAL = 30

    @property
    def label(self) -> str:
        """The severity in words."""
        return self.name.lower()
