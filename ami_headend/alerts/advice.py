"""What each alert means, and what to do about it."""

from typing import NamedTuple

from ami_headend.alerts.models import Condition, Rule
from concentrators.failures.explanations import explain
from concentrators.failures.kinds import FailureKind


class Advice(NamedTuple):
    """A sentence or two, and steps in order."""

    meaning: str
    steps: tuple[str, ...]


def advice(rule: Rule) -> Advice:
    """Return the advice for alerts of a rule."""
    condition = Condition(rule.condition)
    if condition == Condition.KIND_SEEN:
        explanation = explain(FailureKind(rule.selector))
        return Advice(explanation.meaning, explanation.steps)
    return _ADVICE[condition]


_ADVICE = {
    Condition.FAILURE_RATE: Advice(
        "An unusual share of the frames from this concentrator was rejected.",
        (
            "See which kinds of failure they are: failures of one kind usually share a cause.",
            "If one meter sent most of them, suspect its key or firmware; if many did, the concentrator or its link.",
            "If they are forged, revoke the concentrator's token and give it a new one.",
        ),
    ),
    Condition.METER_EVENT: Advice(
        "The meter itself reported it, in a frame whose tag verified: an opened cover, a magnet, or the like.",
        (
            "See what else the meter reported around that time, and whether its consumption changed.",
            "Find out whether an installer was at work there; then acknowledge with a note.",
            "Otherwise have the meter inspected. If it was opened, its keys may be known: compromise and replace them.",
        ),
    ),
    Condition.OUTAGE: Advice(
        "Meters of this concentrator said that their power went, and nothing since. One alert is for all of them.",
        (
            "The page of outages lists them, since when, and how many of the concentrator's meters they are.",
            "Order a reading from them there: who answers has power, and leaves the list.",
            "If many went at one time, ask whoever runs the grid; if it is one house, whoever lives there.",
        ),
    ),
    Condition.SILENT_METER: Advice(
        "No frame of this meter was accepted for a while, though its concentrator posts.",
        (
            "Look at the meter's failures: its frames may arrive but be rejected because of a key or a clock.",
            "See when and through which concentrator its last frame came, and whether neighbours went silent with it.",
            "For a new meter that has never sent a frame: are its key and its system title those of the device?",
            "If it is out of service on purpose, suspend or retire it, and the alert ends.",
        ),
    ),
    Condition.SILENT_CONCENTRATOR: Advice(
        "The concentrator has not posted for a while, nor have its meters through it; it buffers their frames for now.",
        (
            "Is its link up? Ask its operator, or the provider of the line.",
            "Did its token expire, or was it revoked? Look at the tokens on its page.",
            "Do we refuse it? 429 or 503 in its log says that it posts too much, or that we are behind.",
            "If it was taken down on purpose, set it inactive, and the alert ends.",
        ),
    ),
    Condition.COMPLETENESS: Advice(
        "Intervals of this concentrator's meters are missing more than two hours after they were due.",
        (
            "See which meters lack them: each meter's page lists its gaps.",
            "Buffered frames count as soon as they come. If the concentrator has a backlog, wait for it.",
            "If they are lost at the concentrator but still in the meter, send the meter the command to resend.",
        ),
    ),
    Condition.READ_DEADLINE: Advice(
        "Fewer of a day's intervals had arrived by a deadline than its target asks.",
        (
            "The page Deadlines lists the concentrators that lacked most; begin with those that are silent.",
            "What comes later counts as late: the day stays missed. The alert ends with the next day that is met.",
            "Ask for what is still missing on the page of the meter, or let RESEND_GAPS do it every hour.",
        ),
    ),
    Condition.AGGREGATE_MISMATCH: Advice(
        "The concentrator reports a sum for its hop and mac meters that differs from ours. It is a fault, no proof"
        " of fraud: both the readings and their sum come from the concentrator.",
        (
            "Its page shows both figures, each with its number of meters.",
            "If we have fewer meters, reports are missing: see which were rejected, and whether it has a backlog.",
            "If it has fewer, it added up too early or lacks a meter: check whether it has fetched its hop keys since.",
            "If both have as many, its firmware adds up wrongly or changed a reading: have it examined.",
        ),
    ),
    Condition.REGISTERS_DIFFER: Advice(
        "A register of a meter advanced by another energy than its intervals of the same time add up to. Which of the"
        " two is wrong, nobody knows; no value is changed.",
        (
            "See on the list which meters, since when and by how much.",
            "Small differences of many meters of one type come from rounding: enter the resolution of its registers.",
            "A difference of one meter may be its exchange, a wrong length of its intervals, or tampering: inspect it.",
            "Acknowledge what is known; a message comes again once twice as many meters differ.",
        ),
    ),
    Condition.ROTATION_STALLED: Advice(
        "A replacement of keys has begun but makes no progress. Nothing is lost, but old keys stay in use.",
        (
            "A wave that used up its failure budget: see why its commands failed before you resume it with more.",
            "A wave that makes no progress: check that celery beat and a worker run.",
            "The master key: manage.py master_key status shows its state, and master_key rotate --resume continues.",
        ),
    ),
    Condition.KEYS_WORN: Advice(
        "The meter's key is older than it should be, or close to the number of frames that are safe under one key.",
        (
            "Begin a rotation wave for such meters: manage.py rotate_device_keys begin --older-than DAYS.",
            "A meter without a usable transfer key cannot take a new key over the air: it needs a shipment or a visit.",
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
    Condition.AUTHORITY_EXPIRES: Advice(
        "An authority will vouch for meters no longer: frames that bring its certificates will be certificate_expired."
        " Meters that have enrolled are not concerned.",
        (
            "manage.py authority list says until when each is pinned, and how many meters may still enrol.",
            "Have those meters enrol before, or get certificates of another authority for them.",
            "A new key of the authority gets a kid of its own: manage.py authority pin.",
        ),
    ),
    Condition.MASK_AUTHORITY: Advice(
        "A mask authority does not tell sums of masks: it cannot be reached, or refuses. Totals of meters that mask"
        " wait for it, and nothing is lost.",
        (
            "manage.py mask_authorities list says since when, and why.",
            "Ask its operator whether it runs, or needs certificates of new meters (docs/operations/masked.md).",
        ),
    ),
    Condition.MASKED_REFUSED: Advice(
        "Masked values of some intervals have no total, and never will: an authority was restored, has answered for"
        " some of the meters in another set, or an answer does not fit.",
        (
            "The page of masked totals says why, for each set.",
            "Where totals are out of range, compare the signed answers with each authority's log.",
        ),
    ),
    Condition.FEED_LAG: Advice(
        "A program that follows the feed, such as billing, has not taken rows for a while, or positions are not given:"
        " nothing is lost, and it goes on from where it was.",
        (
            "The page of subscriptions says who is behind, and by how much. Look whether that program runs.",
            "If the head-end delivers to it, that page says what it fails of; a worker for deliveries has to run.",
            "Where its cursor is gone, the feed tells it where to go on (docs/integration.md).",
            "Delete the subscription of a program that is no longer used.",
            "No positions: see that a worker for background runs, and end transactions that have run for hours.",
        ),
    ),
    Condition.COUPONS_OUT: Advice(
        "A meter that signs its readings has no coupon left, so it keeps them and waits, or they wait here as "
        "coupon_unknown.",
        (
            "See whether its identity is registered (manage.py meter_identity): without one its coupon lists wait.",
            "If it is, look at its failures: a list with another signature, or with a coupon that stands, is refused.",
            "If nothing comes from it at all, look at the meter and its concentrator.",
        ),
    ),
    Condition.AUDIT_BROKEN: Advice(
        "Somebody without the audit key changed or cut off the record of acts on keys in the database.",
        (
            "Treat it as a break-in until it is explained: who had access to the database?",
            "manage.py audit verify --head NUMBER:MAC, with a head from elsewhere, shows how much of it is sound.",
            "After a restore without the whole key journal the chain is shorter for good: compare it with an export.",
        ),
    ),
    Condition.MASTER_KEY_DOWN: Advice(
        "A worker cannot use the master key. Uplinks are accepted but wait; none is verified, and none is lost.",
        (
            "manage.py doctor on the worker's host says what is wrong: the file, its rights, or the token.",
            "Restore the file from its safe copy. Never make a new one while there are keys.",
        ),
    ),
    Condition.QUEUE_LAG: Advice(
        "Uplinks are accepted, but their verification is behind. Nothing is lost; readings come late.",
        (
            "Check that workers run, and read their logs: manage.py doctor.",
            "The page of an uplink that keeps failing shows its attempts and its last error.",
            "If all is well and only the load is high, start more workers.",
        ),
    ),
    Condition.API_TOKEN_EXPIRES: Advice(
        "The secret of a program's token expires, or has expired: then the program is refused.",
        (
            "Rotate it (manage.py api_token rotate NAME, or its page) and give the program the new secret.",
            "Both secrets are good for a while; the page shows which one the program uses.",
            "If the program is gone, revoke its token.",
        ),
    ),
    Condition.COMMANDS_HELD: Advice(
        "An account or a program gave more commands than it may give alone. They are stored, and no concentrator gets "
        "them until another person releases them.",
        (
            "Ask whoever gave them, by telephone or in person, whether they did, and why: their account may be stolen.",
            "If so, release them on the page Approvals; if not, refuse them there with a reason.",
            "If it was somebody else, block the account or revoke the token; the audit chain says what else it did.",
        ),
    ),
    Condition.SIEM_BEHIND: Advice(
        "Security events do not reach the SIEM. They are kept, and sent in their order once it takes them.",
        (
            "manage.py siem status says how many wait, and what the last attempt failed of.",
            "Ask whoever runs the receiver whether it listens, and whether its certificate is still valid.",
        ),
    ),
    Condition.COMPONENT_DOWN: Advice(
        "Something that the head-end runs on is not well: a host, a server beside it, or a promise that it keeps.",
        (
            "manage.py doctor, or the overview, says what was found and what to do; run it on the host that it names.",
            "No sign of life: the host or process was lost, or reaches no database. It is well once it is back.",
            "If a host is gone for good, manage.py doctor --forget NAME; by itself that happens after a day.",
        ),
    ),
    Condition.BACKUP_OVERDUE: Advice(
        "No complete backup was made for a while. If the database is lost, so is everything since the last one.",
        (
            "See why the nightly manage.py backup did not run, or what error it reported.",
            "manage.py backup list shows which backups there are, and which never became complete.",
            "If you back up in another way only, switch this rule off; destroy then does not know which keys you need.",
        ),
    ),
}
