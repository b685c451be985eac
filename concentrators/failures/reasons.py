"""Removes a household's consumption from reasons of rejections, for people who may see failures but not readings."""

import re

# As ``ingest.repeated_frames`` and ``meters.readings.store`` write them: the stored value, the frame's value, and a
# value that is finer than the steps of its register.
_VALUES = re.compile(r"(?<=\bsays )-?\d+|(?<=, the frame )-?\d+|(?<=: )\S+(?= is no whole number of steps\b)", re.ASCII)


def without_values(detail: str) -> str:
    """Replace values in a reason by dots: they are readings, which need a right of their own."""
    return _VALUES.sub("...", detail)
