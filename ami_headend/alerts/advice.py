"""What an alert means and what to do about it, for people."""

from typing import NamedTuple

from ami_headend.alerts.models import Condition, Rule
from concentrators.failures.explanations import explain
from concentrators.failures.kinds import FailureKind


class Advice(NamedTuple):
    """A sentence or two, and steps in their order."""

    meaning: str
    steps: tuple[str, ...]


def advice(rule: Rule) -> Advice:
    """The advice for alerts of a rule."""
    condition = Condition(rule.condition)
    if condition == Condition.KIND_SEEN:
        explanation = explain(FailureKind(rule.selector))
        return Advice(explanation.meaning, explanation.steps)
    return _ADVICE[condition]


_ADVICE = {
    Condition.FAILURE_RATE: Advice(
        "An unusual share of the frames that came through this concentrator was refused.",
        (
            "See which kinds of failure they are: one kind has one cause.",
            "One meter behind most of them: its key or firmware. Many meters: the concentrator or its link.",
            "If they are forged, revoke the concentrator's token and give it a new one.",
        ),
    ),
    Condition.METER_EVENT: Advice(
        "The meter itself reported it, in a frame whose tag verified: an opened cover, a magnet, or the like.",
        (
            "See what else the meter reported around that time, and whether its consumption changed.",
            "Ask whether an installer was at work there; then acknowledge with a note.",
            "Otherwise have the meter looked at. If it was opened, its keys may be known: compromise and replace them.",
        ),
    ),
    Condition.SILENT_METER: Advice(
        "No frame of this meter was accepted for a while, though its concentrator posts.",
        (
            "Look at the meter's failures: frames may come and be refused, for a key or a clock.",
            "See when and through whom it was heard last, and whether neighbours went silent with it.",
            "A new meter that was never heard: are its key and its system title those of the device?",
            "Out of service on purpose: suspend or retire it, and the alert ends.",
        ),
    ),
    Condition.SILENT_CONCENTRATOR: Advice(
        "The concentrator has not posted for a while. Its meters are not heard either; it keeps their frames for now.",
        (
            "Is its link up? Ask its operator, or the provider of the line.",
            "Did its token expire, or was it revoked? Look at the tokens on its page.",
            "Is it refused? 429 or 503 in its log says that it posts too much, or that we are behind.",
            "Taken down on purpose: set it inactive, and the alert ends.",
        ),
    ),
    Condition.COMPLETENESS: Advice(
        "Intervals of this concentrator's meters are missing, two hours and more after they should be there.",
        (
            "See which meters lack them: the gaps of each stand on its page.",
            "Buffered frames count as soon as they come. If the concentrator has a backlog, wait for it.",
            "Lost for good at the concentrator, but still in the meter: send the meter the command to resend.",
        ),
    ),
    Condition.AGGREGATE_MISMATCH: Advice(
        "What the concentrator adds up of its hop and mac meters is not what we have of them. It is a fault, and no"
        " proof of fraud: the concentrator says both, the readings and their sum.",
        (
            "Its page shows both figures, each with how many meters it is over.",
            "We have fewer meters: reports are missing. See what was refused, and whether it has a backlog.",
            "It has fewer: it added up too early, or does not know of a meter. Has it fetched its hop keys since?",
            "As many, and another sum: its firmware adds up wrongly, or changed a reading. Have it looked at.",
        ),
    ),
    Condition.ROTATION_STALLED: Advice(
        "A replacement of keys was begun and does not go on. Nothing is lost, but old keys stay in use.",
        (
            "A wave whose failure budget is spent: see why its commands failed before you resume it with a higher one.",
            "A wave that nobody steps: see that celery beat and a worker run.",
            "The master key: manage.py master_key status tells, master_key rotate --resume takes it up again.",
        ),
    ),
    Condition.KEYS_WORN: Advice(
        "The meter's key is older than it should be, or nears the number of frames that is safe under one key.",
        (
            "Begin a rotation wave for such meters: manage.py rotate_device_keys begin --older-than DAYS.",
            "A meter without a usable transfer key cannot take a new one over the air: it takes a shipment or a visit.",
        ),
    ),
    Condition.AGREEMENT_KEY_IN_USE: Advice(
        "A version of an agreement key was replaced a while ago, and meters still send under keys that go with it.",
        (
            "manage.py agreement_key list says how many, and of which version.",
            "Move them in a wave: manage.py rotate_device_keys begin --name NAME --agreed-with KEY:VERSION.",
            "If the version may be known to others, do not wait: manage.py agreement_key cut_off KEY VERSION.",
        ),
    ),
    Condition.AUDIT_BROKEN: Advice(
        "The record of acts on keys was changed or cut off in the database, by somebody without the audit key.",
        (
            "Treat it as a break-in until it is explained: who has had access to the database?",
            "manage.py audit verify --head NUMBER:MAC, with a head that was kept elsewhere, tells how far it is sound.",
            "After a restore without its whole key journal the chain is shorter for good: compare it with an export.",
        ),
    ),
    Condition.MASTER_KEY_DOWN: Advice(
        "A worker cannot use the master key. Uplinks are taken and wait; none is verified, and none is lost.",
        (
            "manage.py doctor on the worker's host says what is wrong: the file, its rights, or the token.",
            "Restore the file from where it is kept. Never make a new one while there are keys.",
        ),
    ),
    Condition.QUEUE_LAG: Advice(
        "Uplinks are taken, but their verification is behind. Nothing is lost; readings come late.",
        (
            "See that workers run and what their log says: manage.py doctor.",
            "An uplink that keeps failing shows attempts and its last error on its page.",
            "If all is well and the load is just high, start more workers.",
        ),
    ),
    Condition.BACKUP_OVERDUE: Advice(
        "No whole backup was made for a while. What is lost with the database is lost since the last one.",
        (
            "See why the nightly manage.py backup did not run, or what it said.",
            "manage.py backup list shows what is kept, and what never became whole.",
            "With another way of backing up alone, switch this rule off: but then destroy does not know what it needs.",
        ),
    ),
}
