"""Explanations for people: what each kind of failure means, where it comes from, and what to do. Pure."""

from typing import NamedTuple

from concentrators.failures.kinds import FailureKind


class Explanation(NamedTuple):
    """The explanation of a kind: a sentence or two, likely causes (likeliest first), and steps in order."""

    meaning: str
    causes: tuple[str, ...]
    steps: tuple[str, ...]


def explain(kind: FailureKind) -> Explanation:
    """Return the explanation of a kind."""
    return _EXPLANATIONS[kind]


_EXPLANATIONS: dict[FailureKind, Explanation] = {
    FailureKind.MALFORMED: Explanation(
        "The octets are not the one valid encoding of a frame. No key was tried, and the sender is unknown.",
        (
            "Damage or truncation between meter and concentrator.",
            "A meter or concentrator with other, or faulty, firmware.",
            "Somebody sends arbitrary octets to see what happens.",
        ),
        (
            "Look where the structure breaks: an early end is damage, unknown labels are firmware.",
            "If all come through one concentrator, check its firmware and its link to the meters.",
            "If they continue without explanation, revoke the concentrator's token and give it a new one.",
        ),
    ),
    FailureKind.UNKNOWN_DEVICE: Explanation(
        "There is no key, or no meter, for the system title that the frame claims. Nothing could be verified.",
        (
            "The meter was installed before its shipment file or its registration was imported.",
            "A meter of a neighbouring network is in reach of the concentrator.",
            "An invented system title.",
        ),
        (
            "Search for the system title: is it in a shipment that has yet to be imported?",
            "Import the keys, register the meter, then verify again: the frame is judged from its stored octets.",
            "If nobody knows the meter, leave the frame rejected and acknowledge with a note.",
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
            "Import the missing key, then verify again: the frame is judged from its stored octets.",
            "If no such key was ever made, treat it as forged.",
        ),
    ),
    FailureKind.KEY_RETIRED: Explanation(
        "The frame names a key epoch that is retired or compromised. It was not checked whether the frame is genuine.",
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
        "The frame has another scheme or algorithm than its key was provisioned for. No other is tried: no downgrade.",
        (
            "The meter was configured for the other key length than the shipment file says.",
            "Somebody changed the header on the way to force a weaker algorithm.",
            "A meter of scheme hop sent a reading itself, or its concentrator reported an event in its name.",
        ),
        (
            "Compare scheme and algorithm with those of the meter's device key.",
            "If the shipment file was wrong, give the meter a new key of the right algorithm.",
            "If it happens to one meter of a uniform batch, suspect tampering.",
        ),
    ),
    FailureKind.TAG_INVALID: Explanation(
        "The authentication tag is wrong: the frame was forged, changed on its way, or sealed with another key.",
        (
            "Octets were changed between meter and head-end: tampering, or damage that checksums did not catch.",
            "The meter has another key than the one provisioned here: a mixed-up shipment, a failed key change.",
            "Somebody without the key invents frames for this meter.",
        ),
        (
            "See whether other frames of the meter are accepted at the same time: its key is right, these are bad.",
            "If none are, the key is wrong: check the shipment and the meter's last key command.",
            "If they come from one concentrator only, inspect that concentrator and replace its token.",
            "Readings and counters are untouched by a forged frame: nothing needs to be undone.",
        ),
    ),
    FailureKind.COUPON_UNKNOWN: Explanation(
        "The frame is authentic, but the coupon that its reading is signed under was not announced, or the list that "
        "announces coupons is of a meter whose identity is not registered. It waits, and is judged again.",
        (
            "The coupon list comes over another concentrator, or later.",
            "The identity of the meter, which signs its lists, is not registered yet.",
            "The database was restored to a time before the list was received.",
        ),
        (
            "See on the meter's page whether an identity is registered, and how many coupons are left.",
            "If there is none, register its certificate: manage.py meter_identity register.",
            "If a restore lost lists, have the meter send again: manage.py resend_gaps. It posts its lists first.",
        ),
    ),
    FailureKind.SIGNATURE_INVALID: Explanation(
        "The frame is authentic, but the signature in it does not fit its coupon, or its coupon list is not signed by "
        "the meter's identity, or announces points that are none.",
        (
            "Somebody has the meter's device key, and not what it signs with.",
            "Faulty firmware: another coupon, a wrong scalar, another payload than was signed.",
            "The certificate of the meter's identity was revoked, or the key of the coupon's epoch is compromised.",
        ),
        (
            "Read the reason: it says which of these it is.",
            "If others of its signatures fit, suspect its device key: compromise it, and look at the meter.",
            "If none ever did, compare the registered identity with the manufacturer's certificate.",
        ),
    ),
    FailureKind.COUPON_REUSED: Explanation(
        "The meter signed two things under one coupon, or announced one coupon twice. Both are kept as proof.",
        (
            "A copy of the meter's secrets signs beside the meter.",
            "A meter whose record of the next coupon was set back, or is not reserved ahead.",
        ),
        (
            "Export both signatures: manage.py evidence export. They give away that coupon, and no long-term key.",
            "Look at the meter: what it signs proves nothing any more until the cause is known.",
            "Give it a new key and a new identity, or compromise its keys if a copy exists.",
        ),
    ),
    FailureKind.CERTIFICATE_INVALID: Explanation(
        "A meter wanted to enrol with a certificate that does not hold; below stands what is wrong. No key was made.",
        (
            "The authority that signed it is not pinned here, or was pinned under another name.",
            "It was made for another head-end: its aud is not the name of an agreement key.",
            "Somebody makes up certificates, or changed one on its way.",
        ),
        (
            "Compare its kid, iss and aud with manage.py authority list and manage.py agreement_key list.",
            "If the authority is right and new, pin it: manage.py authority pin takes a second person.",
            "If its signature does not fit, treat it as forged: inspect the concentrator that brings it.",
        ),
    ),
    FailureKind.CERTIFICATE_EXPIRED: Explanation(
        "A meter wanted to enrol with a certificate, or under an authority, whose time was over. No key was made.",
        (
            "The meter lay in a store for longer than its certificate holds.",
            "Our clock is ahead.",
            "Somebody uses an old certificate.",
        ),
        (
            "Have the authority issue another certificate for the meter.",
            "If many are refused at once, look at this machine's clock: manage.py doctor.",
        ),
    ),
    FailureKind.CERTIFICATE_REVOKED: Explanation(
        "A meter wanted to enrol with a certificate that its authority revoked, or that a newer one replaced.",
        (
            "The meter still has its old certificate: the new one did not reach it.",
            "The certificate was revoked since the meter or its key was lost; somebody uses it.",
        ),
        (
            "Ask the authority why it was revoked, and where the meter is.",
            "If the meter is genuine, have its new certificate put into it.",
        ),
    ),
    FailureKind.ALREADY_ENROLLED: Explanation(
        "A meter that has keys, or a certificate that was used before, wanted to enrol. The keys that stand were kept.",
        (
            "The meter lost its memory, and begins anew.",
            "Somebody plays an enrolment again, or has the certificate in a second device.",
        ),
        (
            "If the meter was repaired or replaced, have its authority issue another certificate for a new key pair.",
            "Then let it enrol again: manage.py authority allow TITLE.",
            "Otherwise leave it refused: its frames under the keys that stand are not touched.",
        ),
    ),
    FailureKind.REPLAYED: Explanation(
        "A genuine frame that was accepted before, delivered again after the retransmission window.",
        (
            "A concentrator was restored from an old image, or lost its memory of what it had delivered.",
            "Somebody recorded frames and plays them again.",
        ),
        (
            "The readings of the first delivery remain; nothing is counted twice.",
            "If many meters of one concentrator are affected, look at its spool and its last restart.",
            "If a foreign concentrator posts them, somebody recorded them: inspect it and revoke its token.",
        ),
    ),
    FailureKind.COUNTER_REUSED: Explanation(
        "A genuine frame with an invocation counter that was used before, but with other content. "
        "Two devices share this key, or the meter repeats counters: both break the encryption of those frames.",
        (
            "The meter was cloned: a second device has its key.",
            "The meter lost its counter (worn memory, replaced board, faulty firmware).",
        ),
        (
            "Compare with the stored readings: do two different loads alternate? Then there are two devices.",
            "Give the meter a new key at once. Treat everything sent under a repeated counter as readable by others.",
            "Have the meter inspected on site; exchange it if its counter is lost.",
        ),
    ),
    FailureKind.COUNTER_TOO_OLD: Explanation(
        "A genuine frame whose invocation counter lies below the recorded gaps: nobody knows any more whether it "
        "came before, so it is rejected.",
        (
            "Frames that were buffered very long, after the meter skipped counters many times.",
            "Old recorded frames are played again.",
        ),
        (
            "See whether the readings of that time are stored already.",
            "If they are missing, order them from the meter: a resend comes under new counters.",
        ),
    ),
    FailureKind.SESSION_CLOSED: Explanation(
        "A genuine frame of a session that is kept no longer, as its meter began many others since: "
        "whether it came before is not known any more, so that it is refused.",
        (
            "Frames that were buffered very long, while the meter booted again and again.",
            "Old recorded frames are played again.",
        ),
        (
            "See whether the readings of that time stand already.",
            "If they are missing, ask the meter for them: a resend comes in its present session.",
            "If the meter boots often, have its supply looked at.",
        ),
    ),
    FailureKind.DEVICE_SUSPENDED: Explanation(
        "A genuine frame of a meter that is not in service. Its counter stays free, and it waits until the meter is.",
        (
            "The meter is suspended or retired here, but still powered.",
            "The meter was moved to another cell, and a concentrator that stayed here heard it.",
            "A new meter was installed and not yet commissioned.",
        ),
        (
            "If the meter should be in service, resume it: waiting frames are then judged automatically.",
            "If it was removed, find out who still powers it. Frames of a retired meter do not wait.",
        ),
    ),
    FailureKind.PAYLOAD_INVALID: Explanation(
        "The frame is genuine, but its content cannot be stored: not the agreed SenML, two values in one "
        "place, or an interval that begins at no whole minute.",
        (
            "A fault in the meter's firmware.",
            "The meter sends a content or a version of SenML that this head-end does not know.",
        ),
        (
            "Read the reason: it names the record at fault.",
            "Report it to the maker of the firmware, with this frame's octets.",
        ),
    ),
    FailureKind.UNKNOWN_PROFILE: Explanation(
        "The frame is genuine, but no push profile says what its columns are. Its counter stays free, and the whole "
        "frame waits.",
        (
            "A model of meter, or a list of values, that nobody has registered yet.",
            "New firmware moved, added or removed a column: then the form of the notification is another one.",
        ),
        (
            "Read the reason: it has the form of the notification, with the values blanked.",
            "Register a profile for it (manage.py push_profile): waiting frames are then judged automatically.",
            "Take scalers and units from the operator's or the maker's paper, never by guessing.",
        ),
    ),
    FailureKind.UNKNOWN_REGISTER: Explanation(
        "The frame is genuine but names a register that is not in the catalogue. Its counter stays free, and the "
        "whole frame waits.",
        (
            "New firmware, or a new model of meter, reports a register that nobody has added yet.",
            "A fault in the meter's firmware.",
        ),
        (
            "Read the reason: it names the register.",
            "Add it to the catalogue: waiting frames are then judged automatically from their stored octets.",
            "If nobody knows it, report it to the maker of the firmware, with this frame's octets.",
        ),
    ),
    FailureKind.REGISTRY_MISMATCH: Explanation(
        "The frame is genuine but does not match the registry: an interval off the grid of the registered length, "
        "another unit, or a value finer than a step of its register. It keeps its counter free, and waits.",
        (
            "The meter measures in another interval length than it was registered with.",
            "The catalogue has a wrong unit, scaler or kind for the register.",
            "A fault in the meter's firmware.",
        ),
        (
            "Read the reason: it names the record, and the entry of the registry.",
            "If the meter is right, correct its length (its page, or manage.py correct_length).",
            "If the catalogue is wrong, correct the register while it has no readings (manage.py correct_register).",
            "Waiting frames are then judged automatically from their stored octets.",
            "If it is the firmware, report it to its maker, with this frame's octets; acknowledge with a note.",
        ),
    ),
    FailureKind.IMPLAUSIBLE: Explanation(
        "The frame is genuine, but a value is outside the bounds of its register. Its counter stays free, and the "
        "whole frame waits.",
        (
            "A fault in the meter: a counter that overflowed, or memory that was lost.",
            "The bounds of the register are too narrow for this kind of meter.",
        ),
        (
            "The reason names value and bounds: compare with the meter's other readings.",
            "If the value is right, widen the register's bounds: waiting frames are then judged automatically.",
            "If not, have the meter inspected; acknowledge with a note.",
        ),
    ),
    FailureKind.IDENTITY_MISMATCH: Explanation(
        "The frame is sealed with one meter's key, but its content names another meter.",
        (
            "Keys or identities of two meters were swapped in production or in a shipment file.",
            "A device with this meter's key pretends to be another meter.",
            "A concentrator reports for a meter that is not of scheme hop, or not assigned to it.",
            "A concentrator says sums for a time when no meter with such intervals was assigned to it.",
        ),
        (
            "Compare the two meters in the shipment file and on their name plates.",
            "Suspend the meter until its identity is clear, then give it a new key.",
        ),
    ),
    FailureKind.CLOCK_SKEW: Explanation(
        "The frame is genuine, but its time is more than five minutes ahead of its reception, or its interval had not "
        "ended. Its counter stays free, and the frame waits.",
        (
            "The meter's clock runs fast or was set wrongly.",
            "The clock of the head-end's host was slow.",
            "A meter that sends an interval before it is over, or measures in shorter ones than registered.",
        ),
        (
            "If many meters are affected at once, check the clocks of the head-end's hosts first.",
            "If ours was slow, set it right, then record when and by how much (manage.py correct_clock).",
            "If its intervals are shorter than registered, correct the length: manage.py correct_length, or its page.",
            "If it was the meter's, set that, and order the missing intervals: these frames stay rejected.",
        ),
    ),
    FailureKind.TOO_OLD: Explanation(
        "The frame is genuine, but its time is before the retention period: its partition is gone.",
        (
            "The meter's clock was reset, often to the beginning of its calendar, after a loss of power.",
            "A concentrator was switched on again after years.",
        ),
        (
            "If the time makes no sense, set the meter's clock.",
            "Order the missing intervals from the meter.",
        ),
    ),
    FailureKind.READING_CONFLICT: Explanation(
        "The frame is genuine and new, but another value is stored for the same meter, register and time. "
        "The stored value was not changed.",
        (
            "The meter's clock was set back, and it recorded the same hours twice.",
            "Faulty firmware that answers a resend with other values.",
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
            "Once the cause is removed, verify again: the frame is judged from its stored octets.",
            "Report a fault of the head-end with the frame's octets, which are stored with the uplink.",
        ),
    ),
}
