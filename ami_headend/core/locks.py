"""Every advisory lock of the head-end in one list, so that no two have one number (PostgreSQL 13.3.5).

The journal's is taken before the audit chain's: a replay, which holds the journal's alone, appends to the chain.
"""

from typing import Final

from ami_headend.core.sql import execute

TOTALS: Final = 0x616D6901  # verification holds it shared, whoever changes assignments or interval lengths alone
AUDIT_CHAIN: Final = 0x616D6902  # one record is appended at a time
MASTER_KEY: Final = 0x616D6903  # whoever wraps secrets holds it shared, whoever changes the versions alone
KEY_JOURNAL: Final = 0x616D6904  # whoever writes to the journal holds it shared, a replay alone
GAP_RECOVERY: Final = 0x616D6905  # one at a time looks which gaps are asked for, and asks
ALERTS: Final = 0x616D6906  # one at a time evaluates rules
EXPECTED_STEPS: Final = 0x616D6907  # one at a time makes steps anew
TURNS: Final = 0x616D6908  # with a concentrator's id, of the session: its uplinks are verified by one worker
REVERIFICATION: Final = 0x616D6909  # of the session: one worker at a time
SYSTEM_TITLES: Final = 0x616D690A  # new meters hold it shared, a concentrator that is given a title alone
REPORTED_SUMS: Final = 0x616D690B  # one at a time compares what concentrators add up
PARTITIONS: Final = 0x616D6970  # one at a time makes and drops partitions


def take(lock: int) -> None:
    """Wait for a lock and hold it alone until the transaction ends."""
    execute("SELECT pg_advisory_xact_lock(%s)", lock)


def share(lock: int) -> None:
    """Wait until nobody holds a lock alone, and hold it beside others until the transaction ends."""
    execute("SELECT pg_advisory_xact_lock_shared(%s)", lock)
