"""What each kind of failure means, where it comes from and what to do: for people, beside kinds.py. Pure."""

from typing import NamedTuple

from concentrators.failures.kinds import FailureKind


class Explanation(NamedTuple):
    """One kind of failure: a sentence or two, likely causes (likeliest first), and steps in their order."""

    meaning: str
    causes: tuple[str, ...]
    steps: tuple[str, ...]


def explain(kind: FailureKind) -> Explanation:
    """The explanation of a kind."""
    return _EXPLANATIONS[kind]


_EXPLANATIONS: dict[FailureKind, Explanation] = {
    FailureKind.MALFORMED: Explanation(
        "The octets are not the one valid encoding of a frame. No key was tried; whom they are from is unknown.",
        (
            "Damage or truncation between meter and concentrator.",
            "A meter or concentrator with other, or faulty, firmware.",
            "Somebody sends arbitrary octets to see what happens.",
        ),
        (
            "Look at where the structure breaks, below: an early end is damage, foreign labels are firmware.",
            "If all come through one concentrator, check its firmware and its link to the meters.",
            "If they go on and nothing explains them, revoke the concentrator's token and give it a new one.",
        ),
    ),
    FailureKind.UNKNOWN_DEVICE: Explanation(
        "No key, or no meter, stands under the system title that the frame claims. Nothing could be verified.",
        (
            "The meter was installed before its shipment file or its registration was imported.",
            "A meter of a neighbouring network is in reach of the concentrator.",
            "A made-up system title.",
        ),
        (
            "Search for the system title: is it in a shipment that is still to be imported?",
            "Import the keys, register the meter, then verify again: the frame is judged from its kept octets.",
            "If nobody knows the meter, leave it refused and acknowledge with a note.",
        ),
    ),
    FailureKind.UNKNOWN_EPOCH: Explanation(
        "The meter is known, but not the key epoch that the frame names.",
        (
            "The manufacturer, or a service tool, gave the meter a newer key that was not imported.",
            "The database was restored to a time before the last key rotation of this meter.",
            "A forged frame with a guessed epoch.",
        ),
        (
            "Compare the epoch with the meter's key epochs.",
            "Import the missing key, then verify again: the frame is judged from its kept octets.",
            "If no such key was ever made, treat it as forged.",
        ),
    ),
    FailureKind.KEY_RETIRED: Explanation(
        "The frame names a key epoch that is retired or compromised. Whether the frame is genuine was not looked at.",
        (
            "The meter did not take over its new key, and its grace period is over.",
            "A concentrator delivers frames that it buffered longer than the grace period.",
            "Somebody uses a key that leaked.",
        ),
        (
            "See whether newer frames of the meter come under its active epoch.",
            "If none do, look at its last key command and give it a new key, on site if it does not answer.",
            "If the epoch is compromised, treat each such frame as forged.",
        ),
    ),
    FailureKind.ALGORITHM_MISMATCH: Explanation(
        "The frame is of another scheme or algorithm than its key was provisioned for. It is not tried in another way: "
        "no downgrade.",
        (
            "The meter was configured for the other key length than the shipment file says.",
            "Somebody changed the header on the way, to have a weaker algorithm used.",
        ),
        (
            "Compare scheme and algorithm below with the meter's device key.",
            "If the shipment file was wrong, give the meter a new key of the right algorithm.",
            "If it happens to one meter of a uniform batch, suspect tampering.",
        ),
    ),
    FailureKind.TAG_INVALID: Explanation(
        "The authentication tag does not fit: the frame was forged or changed on its way, or sealed with another key.",
        (
            "Octets were changed between meter and head-end: tampering, or damage that checksums did not catch.",
            "The meter has another key than the one provisioned here: a mixed-up shipment, a failed key change.",
            "Somebody without the key makes up frames for this meter.",
        ),
        (
            "See whether other frames of the meter are accepted in these hours: then its key is right, these are not.",
            "If none are, the key is wrong: check the shipment and the meter's last key command.",
            "If only one concentrator brings them, inspect that concentrator and replace its token.",
            "Readings and counters are untouched by a forged frame: nothing needs to be undone.",
        ),
    ),
    FailureKind.REPLAYED: Explanation(
        "A genuine frame that was accepted before, delivered again after the retransmission window.",
        (
            "A concentrator was restored from an old image, or lost its memory of what it had delivered.",
            "Somebody recorded frames and plays them again.",
        ),
        (
            "The readings of the first time stand; nothing is counted twice.",
            "If many meters of one concentrator are affected, look at its spool and its last restart.",
            "If a foreign concentrator brings them, somebody recorded them: inspect it and revoke its token.",
        ),
    ),
    FailureKind.COUNTER_REUSED: Explanation(
        "A genuine frame under an invocation counter that was used before, with other content. "
        "Two devices share this key, or the meter repeats counters: either breaks the encryption of those frames.",
        (
            "The meter was cloned: a second device has its key.",
            "The meter lost its counter (worn memory, replaced board, faulty firmware).",
        ),
        (
            "Compare with the readings that stand: do two different loads alternate? Then there are two devices.",
            "Give the meter a new key at once. What was sent under a repeated counter must count as readable.",
            "Have the meter looked at on site; exchange it if its counter is lost.",
        ),
    ),
    FailureKind.COUNTER_TOO_OLD: Explanation(
        "A genuine frame whose invocation counter lies below the gaps that are kept: "
        "whether it came before is not known any more, so that it is refused.",
        (
            "Frames that were buffered very long, after the meter jumped ahead many times.",
            "Old recorded frames are played again.",
        ),
        (
            "See whether the readings of that time stand already.",
            "If they are missing, ask the meter for them: a resend comes under new counters.",
        ),
    ),
    FailureKind.DEVICE_SUSPENDED: Explanation(
        "A genuine frame of a meter that is not in service. Its counter was not taken: it waits until the meter is.",
        (
            "The meter is suspended or retired here, but still powered.",
            "A new meter was installed and not yet commissioned.",
        ),
        (
            "If the meter should be in service, resume it: what waits is then judged from the kept octets by itself.",
            "If it was removed, find out who still powers it. Frames of a retired meter do not wait.",
        ),
    ),
    FailureKind.PAYLOAD_INVALID: Explanation(
        "The frame is genuine, but what it says cannot be stored: no SenML as agreed, two values in one "
        "place, or an interval that begins on no whole minute.",
        (
            "A fault in the meter's firmware.",
            "The meter sends a content or a version of SenML that this head-end does not know.",
        ),
        (
            "Read the reason: it names the record at fault.",
            "Report it, with this frame's octets, to whoever makes the firmware.",
        ),
    ),
    FailureKind.UNKNOWN_REGISTER: Explanation(
        "The frame is genuine, and names a register that is not in the catalogue. It keeps its counter and waits, with "
        "all that it says.",
        (
            "New firmware, or a new model of meter, reports a register that nobody has added yet.",
            "A fault in the meter's firmware.",
        ),
        (
            "Read the reason: it names the register.",
            "Add it to the catalogue: frames that wait for it are then judged from the kept octets by themselves.",
            "If nobody knows it, report it, with this frame's octets, to whoever makes the firmware.",
        ),
    ),
    FailureKind.REGISTRY_MISMATCH: Explanation(
        "The frame is genuine, but does not fit what stands here of its meter or register: an interval off the grid of "
        "the registered length, another unit, or a value finer than a step. It keeps its counter and waits, with all "
        "that it says.",
        (
            "The meter measures in another interval length than it was registered with.",
            "The register stands in the catalogue with a wrong unit, scaler or kind.",
            "A fault in the meter's firmware.",
        ),
        (
            "Read the reason: it names the record, and what stands here.",
            "If the meter is right, correct its length (its page, or manage.py correct_length).",
            "If the catalogue is wrong, correct the register (manage.py correct_register): no reading may stand on it.",
            "What waits is then judged again by itself, from the kept octets.",
            "If it is the firmware, report it, with this frame's octets, to whoever makes it; acknowledge with a note.",
        ),
    ),
    FailureKind.IMPLAUSIBLE: Explanation(
        "The frame is genuine, but a value lies outside the bounds of its register. It keeps its counter and waits, "
        "with all that it says.",
        (
            "A fault in the meter: a counter that overflowed, or memory that was lost.",
            "The bounds of the register are too narrow for this kind of meter.",
        ),
        (
            "The reason names value and bounds: compare with the meter's other readings.",
            "If the value is right, widen the register's bounds: what waits is then judged again by itself.",
            "If it is not, have the meter looked at; acknowledge with a note.",
        ),
    ),
    FailureKind.IDENTITY_MISMATCH: Explanation(
        "The frame is sealed with one meter's key, and its content names another meter.",
        (
            "Keys or identities of two meters were swapped in production or in a shipment file.",
            "A device that has this meter's key speaks in another's name.",
        ),
        (
            "Compare the two meters in the shipment file and on their name plates.",
            "Suspend the meter until its identity is clear, then give it a new key.",
        ),
    ),
    FailureKind.CLOCK_SKEW: Explanation(
        "The frame is genuine, but its time is more than five minutes ahead of its reception, or its interval was not "
        "over. It keeps its counter and waits.",
        (
            "The meter's clock runs fast or was set wrongly.",
            "The clock of the head-end's host was slow.",
            "A meter that sends an interval before it is over, or measures in shorter ones than registered.",
        ),
        (
            "If many meters are affected at once, check the clocks of the head-end's hosts first.",
            "If ours was slow, set it right, then say when and by how much (manage.py correct_clock): they are judged.",
            "If its intervals are shorter than registered, correct the length: manage.py correct_length, or its page.",
            "If it was the meter's, set that, and ask it for the intervals that are missing: these frames stay out.",
        ),
    ),
    FailureKind.TOO_OLD: Explanation(
        "The frame is genuine, but its time lies before the retention window: its partition is gone.",
        (
            "The meter's clock was reset, often to the beginning of its calendar, after a loss of power.",
            "A concentrator was switched on again after years.",
        ),
        (
            "If the time makes no sense, set the meter's clock.",
            "Ask the meter for the intervals that are missing.",
        ),
    ),
    FailureKind.READING_CONFLICT: Explanation(
        "The frame is genuine and new, but another value stands already for the same meter, register and time. "
        "The value that stands was not changed.",
        (
            "The meter's clock was set back, and it recorded the same hours twice.",
            "A faulty firmware that answers a resend with other values.",
            "The meter was manipulated.",
        ),
        (
            "The reason names both values: compare them with the neighbouring intervals.",
            "Look for clock and tamper events of the meter around that time.",
            "If the clock was set back, the first value is usually the right one; acknowledge with a note.",
        ),
    ),
    FailureKind.PARKED: Explanation(
        "The head-end itself could not process this frame; the rest of its uplink was verified without it.",
        (
            "A fault in the head-end.",
            "The stored key of the meter does not open: master key and database do not belong together.",
        ),
        (
            "Look for the error in the workers' log at the time of receipt.",
            "Run manage.py doctor: it says whether the keys open.",
            "Once the cause is mended, verify again: the frame is judged from its kept octets.",
            "Report a fault of the head-end with the frame's octets; they are kept with the uplink.",
        ),
    ),
}
