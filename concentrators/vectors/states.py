"""Vectors of what a head-end refuses by what it knows: a key that ended, a meter that is suspended, old counters."""

from concentrators.vectors.frames import CONTEXTS, EVENT, frame
from concentrators.vectors.material import COUNTER, DEVICE_KEY, PAYLOAD, TIME_S, TITLE, Vector, Vectors, ccm, energy
from keyvault.schemes.session import SessionSealer, kid_context

_KEPT = 2


def make() -> Vectors:
    """All vectors of states."""
    good = ccm(COUNTER, PAYLOAD)
    yield frame("state/retired-key", good, "key_retired", key_state="retired")
    yield frame("state/compromised-key", good, "key_retired", key_state="compromised")
    yield frame("state/retiring-key", good, key_state="retiring")
    yield frame("state/suspended-meter", good, "device_suspended", meter_status="suspended")
    yield frame("state/changed-tag-of-a-suspended-meter", good[:-1] + b"\x00", "tag_invalid", meter_status="suspended")
    yield from _counters()
    yield from _sessions()


def _counters() -> Vectors:
    """Each of the frames before skips a counter: the first that was skipped is given up with the third."""
    before = [ccm(counter, energy(counter, TIME_S - 1800 * counter)) for counter in (1, 3, 5)]
    kept: Vector = {"before": before, "gap_runs": _KEPT}
    yield frame("state/below-the-gaps-that-are-kept", ccm(0, EVENT), "counter_too_old", **kept)
    yield frame("state/a-gap-that-is-kept", ccm(2, EVENT), counter=2, payload=EVENT, **kept)
    yield frame("state/below-the-gaps-with-a-changed-tag", ccm(0, EVENT)[:-1] + b"\x00", "tag_invalid", **kept)
    yield frame("state/a-counter-that-was-taken", ccm(3, EVENT), "counter_reused", **kept)


def _sessions() -> Vectors:
    """Sessions of three boots, of which a head-end that keeps two gives up the lowest."""
    contexts = [kid_context(TIME_S, boot.to_bytes(4, "big") + bytes(4)) for boot in range(1, 5)]
    sealers = [SessionSealer(DEVICE_KEY, TITLE, 1, 10, context) for context in contexts]
    before = [one.seal_as(0, energy(n, TIME_S - 1800 * n)) for n, one in enumerate(sealers[1:])]
    kept: Vector = {"scheme": "session", "before": before, "sessions_kept": _KEPT}
    yield frame("state/session-that-was-given-up", sealers[1].seal_as(1, EVENT), "session_closed", **kept)
    yield frame("state/session-below-those-that-are-kept", sealers[0].seal_as(0, EVENT), "session_closed", **kept)
    yield frame("state/session-that-is-kept", sealers[2].seal_as(1, EVENT), **kept)
    first = SessionSealer(DEVICE_KEY, TITLE, 1, 10, CONTEXTS[0])
    twice = {"scheme": "session", "context": CONTEXTS[0], "before": [first.seal_as(0, PAYLOAD)]}
    yield frame("state/other-content-in-a-session", first.seal_as(0, EVENT), "counter_reused", **twice)
    yield frame("state/the-same-frame-of-a-session", first.seal_as(0, PAYLOAD), "duplicate", **twice)
