"""What a health check returns."""

from typing import NamedTuple


class CheckResult(NamedTuple):
    """The result of one check: whether all is well, what was found, and what to do if not."""

    name: str
    well: bool
    found: str
    to_do: str = ""
