"""The meaning and limits of a rule's numbers for each condition."""

from dataclasses import dataclass

from ami_headend.alerts.models import Condition
from concentrators.failures.kinds import FailureKind, Severity
from meters.codes import event_codes
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG


@dataclass(frozen=True)
class Parameters:
    """The labels of a condition's numbers; None if it has no such number. ``selectors`` are the choices.

    ``may_have_group``: its subjects are meters or concentrators, so a rule may be for those of one group.
    """

    threshold: str | None = None
    threshold_max: float = 1e9
    period: str | None = None
    selector: str | None = None
    selectors: tuple[tuple[str, str], ...] = ()
    may_have_group: bool = False
    takes_codes: bool = False  # a log with a code, too

    def takes(self, selector: str) -> bool:
        """Whether a rule of the condition may have this selector."""
        return selector in dict(self.selectors) or (self.takes_codes and _is_code(selector))


TOGETHER, EACH = "all", "concentrator"  # whose readings by a deadline: of all, or of each by itself
ESSENTIAL, RESERVES = "essential", "reserves"  # components without which work stands still, and all others
_KINDS = tuple((kind.value, kind.label) for kind in FailureKind)
_LOGS = ((FRAUD_LOG, "fraud log: tamper, cover, magnet"), (STANDARD_LOG, "standard log: outage, clock set"))

_SEVERITIES = tuple((one.label, f"events that are {one.label} or worse, without outages") for one in Severity)


def _is_code(text: str) -> bool:
    try:
        event_codes.parse_key(text)
    except ValueError:
        return False
    return True


PARAMETERS = {
    Condition.FAILURE_RATE: Parameters(
        "rejected frames of a concentrator, percent", 100, "counted over, minutes", may_have_group=True
    ),
    Condition.KIND_SEEN: Parameters(
        "failures", period="counted over, minutes", selector="kind", selectors=_KINDS, may_have_group=True
    ),
    Condition.METER_EVENT: Parameters(
        "events",
        period="counted over, minutes",
        selector="log, severity, or log/code",
        selectors=(*_LOGS, *_SEVERITIES),
        takes_codes=True,
        may_have_group=True,
    ),
    Condition.OUTAGE: Parameters("meters without power", period="gone within, minutes"),
    Condition.SILENT_METER: Parameters(period="no frame for, minutes", may_have_group=True),
    Condition.SILENT_CONCENTRATOR: Parameters(period="no post for, minutes", may_have_group=True),
    Condition.COMPLETENESS: Parameters(
        "intervals received, percent", 100, "over the last, minutes", may_have_group=True
    ),
    Condition.READ_DEADLINE: Parameters(
        selector="whose readings",
        selectors=((TOGETHER, "all concentrators together"), (EACH, "each concentrator by itself")),
        may_have_group=True,
    ),
    Condition.AGGREGATE_MISMATCH: Parameters(period="differs for, minutes", may_have_group=True),
    Condition.REGISTERS_DIFFER: Parameters(
        "meters that differ", period="spans that began within, minutes", may_have_group=True
    ),
    Condition.ROTATION_STALLED: Parameters(period="no progress for, minutes"),
    Condition.KEYS_WORN: Parameters("age of a device key, days", may_have_group=True),
    Condition.AGREEMENT_KEY_IN_USE: Parameters(period="replaced for, minutes"),
    Condition.AUTHORITY_EXPIRES: Parameters(period="expires within, minutes"),
    Condition.MASK_AUTHORITY: Parameters(period="no answer for, minutes"),
    Condition.MASKED_REFUSED: Parameters(period="refused within, minutes"),
    Condition.FEED_LAG: Parameters(period="behind for, minutes"),
    Condition.COUPONS_OUT: Parameters(period="none left for, minutes", may_have_group=True),
    Condition.AUDIT_BROKEN: Parameters(),
    Condition.MASTER_KEY_DOWN: Parameters(),
    Condition.QUEUE_LAG: Parameters(period="the oldest uplink waits for, minutes"),
    Condition.BACKUP_OVERDUE: Parameters(period="no complete backup for, minutes"),
    Condition.API_TOKEN_EXPIRES: Parameters(period="expires within, minutes"),
    Condition.SIEM_BEHIND: Parameters(period="the oldest event waits for, minutes"),
    Condition.COMMANDS_HELD: Parameters(period="wait for, minutes"),
    Condition.COMPONENT_DOWN: Parameters(
        period="not well for, minutes",
        selector="which components",
        selectors=(
            (ESSENTIAL, "those without which work stands still: workers, schedule, broker, clock, disk, ..."),
            (RESERVES, "all others: hosts, standbys, mirrors, sign-in, ..."),
        ),
    ),
}
