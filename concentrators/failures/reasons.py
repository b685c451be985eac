"""Why frames were refused, as far as everybody may read it who sees failures: without what a household consumed."""

import re

# As ``ingest.decide`` and ``meters.readings.store`` write them: a register's value, the frame's, one that is finer than
# its steps.
_VALUES = re.compile(r"(?<=\bsays )-?\d+|(?<=, the frame )-?\d+|(?<=: )\S+(?= is no whole number of steps\b)", re.ASCII)


def without_values(detail: str) -> str:
    """A reason with dots in place of values: they are readings, which have a right of their own."""
    return _VALUES.sub("...", detail)
