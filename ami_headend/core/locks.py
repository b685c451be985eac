"""Every advisory lock of the head-end in one list, so that no two share a number (PostgreSQL 13.3.5).

Take KEY_JOURNAL before AUDIT_CHAIN: a replay holds the journal exclusively while it appends to the chain. Take GROUPS
and PROVIDER_LOGOUTS before both.
"""

from typing import Final

from ami_headend.core.sql import execute

TOTALS: Final = 0x616D6901  # shared by verification; exclusive to changes of assignments and interval lengths
AUDIT_CHAIN: Final = 0x616D6902  # one record is appended at a time
MASTER_KEY: Final = 0x616D6903  # shared by whoever wraps secrets; exclusive to changes of versions
KEY_JOURNAL: Final = 0x616D6904  # shared by whoever writes to the journal; exclusive to a replay
GAP_RECOVERY: Final = 0x616D6905  # one process at a time looks which gaps to recover and orders them
ALERTS: Final = 0x616D6906  # one process at a time evaluates rules
EXPECTED_STEPS: Final = 0x616D6907  # one process at a time recomputes steps
TURNS: Final = 0x616D6908  # of the session, with a concentrator's id: one worker verifies its uplinks
REVERIFICATION: Final = 0x616D6909  # of the session: one worker at a time
SYSTEM_TITLES: Final = 0x616D690A  # shared by new meters; exclusive to a concentrator that is given a title
REPORTED_SUMS: Final = 0x616D690B  # one process at a time compares the sums of concentrators
MASKED_SETS: Final = 0x616D690C  # one process at a time forms and closes sets of masked values
GROUPS: Final = 0x616D690D  # shared by installations and assignments; exclusive to changes of groups
READ_DEADLINES: Final = 0x616D690E  # one process at a time counts what had arrived by a deadline
REGISTER_CHECKS: Final = 0x616D690F  # one process at a time compares registers with intervals
COMMAND_LIMITS: Final = 0x616D6910  # with the hash of an account's name: its acts are counted one after the other
ARCHIVE: Final = 0x616D6911  # one process at a time takes a step of a month into the archive, or out of it
FEED_DELIVERIES: Final = 0x616D6912  # of the session, with a delivery's id: one worker sends for it
PROVIDER_LOGOUTS: Final = 0x616D6913  # shared by sign-ins at the provider; exclusive to a logout there
PARTITIONS: Final = 0x616D6970  # one process at a time makes and drops partitions


def take(lock: int) -> None:
    """Wait for a lock and hold it exclusively until the transaction ends."""
    execute("SELECT pg_advisory_xact_lock(%s)", lock)


def share(lock: int) -> None:
    """Wait for a lock and share it with others until the transaction ends."""
    execute("SELECT pg_advisory_xact_lock_shared(%s)", lock)
