"""How every life of a head-end ends: what was held up goes on, and then nothing is missing and nobody locked out."""

from datetime import timedelta

from concentrators.commands import queue
from concentrators.models import Command, CommandKind, CommandState
from concentrators.totals import totals
from keyvault.audit import chain
from keyvault.master_key import census
from keyvault.models import MasterKeyRotation
from tests.stateful.entities import ACCEPTABLE, ACCEPTED, TRANSFER_EPOCH, Sent
from tests.stateful.field import HonestMeter
from tests.stateful.headend import HeadEnd, clock
from tests.stateful.holders import Holder
from tests.stateful.rotating import finish_rotation


def end_well(site: HeadEnd) -> None:
    """Everything that was held up goes on: no frame is missing, no meter locked out, and the books agree."""
    for meter in site.unshipped:
        site.ship(meter)
    site.add_register()
    site.correct_register()
    for meter in site.meters:
        site.correct_length(meter)  # a concentrator whose meters are registered wrongly says no sums
    site.by_itself(site.workers[1])
    for holder in site.holders.values():
        _renew(site, holder)
    for meter in site.meters:
        if not site.truth.in_service[meter.title]:
            site.toggle_service(meter)
        if site.is_enrolling(meter):
            site.finish_enrolment(meter)
        if site.truth.keys[meter.title, TRANSFER_EPOCH].state == "compromised":
            site.replace_transfer_key(meter)
        site.visit(meter)
    while site.unverified():
        site.pass_time(timedelta(minutes=10))
        site.sweep(site.workers[0])
    site.by_itself(site.workers[1])
    site.verify_again(site.workers[0])
    _deliver_all_again(site)
    _assert_every_frame_once(site)
    for meter in site.meters:
        _assert_not_locked_out(site, meter)
    for meter in site.pushers:
        _assert_still_pushes(site, meter)
    _assert_no_command_done_expires(site)
    _deliver_all_again(site)
    _assert_every_frame_once(site)
    _assert_books_agree(site)
    site.compare_sums()
    site.assert_sums_compared()


def _assert_no_command_done_expires(site: HeadEnd) -> None:
    """What is open is brought until it is answered: nothing that a meter did stays open, or ends in another way."""
    waiting = Command.objects.filter(state__in=queue.OPEN)
    numbers = list(waiting.values_list("pk", flat=True))
    waiting.update(expires_at=clock.now + timedelta(days=400))
    for _ in range(4 * len(numbers) + 8):
        if not waiting.exists():
            break
        letters, said = len(site.letters), len(site.air)
        for concentrator in site.concentrators:
            site.fetch(concentrator)
        for holder in site.holders.values():
            site.fetch_hop_keys(holder)
        for letter in site.letters[letters:]:
            site.deliver(letter)
        if site.air[said:]:
            site.arrive(0, site.air[said:], worker=0)
        if len(site.letters) == letters:
            site.pass_time(timedelta(hours=6))
        site.learn({("retiring", "retired")})
    for command in Command.objects.filter(pk__in=numbers).select_related("meter"):
        meter = site.meter_of(bytes(command.meter.system_title))
        ends = {CommandState.DONE, CommandState.REFUSED}
        if command.kind == CommandKind.SET_KEY and command.pk not in meter.done:
            ends.add(CommandState.CANCELLED)  # its key was cut off, or replaced, before the meter had it
        assert command.state in ends, f"{command} of a meter that did {meter.done} ended {command.state}"


def _deliver_all_again(site: HeadEnd) -> None:
    for place in (0, 1):
        frames = [sent for number, sent in enumerate(site.air) if number % 2 == place]
        if frames:
            site.arrive(place, frames, worker=1)


def _assert_every_frame_once(site: HeadEnd) -> None:
    """But those that the rules give up."""
    times = site.truth.times_accepted()
    for sent in site.air:
        accepted = times.pop(sent.octets, 0)
        assert accepted == 1 or (not accepted and _is_given_up(site, sent)), sent
    assert not times, "frames were accepted that no honest meter sent"


def _is_given_up(site: HeadEnd, sent: Sent) -> bool:
    """Whether its key was cut off, its grace over, or never known; its gap is kept no more; it may not say that; or it
    came with a certificate that enrolled nobody.
    """
    key = site.truth.keys.get(sent.kid)
    if key is None or sent.key_name not in (b"", key.name):
        return True
    ended = key.state in ("retired", "compromised") or key.look(sent) in ("old", "closed")
    return ended or sent.octets in site.truth.misplaced or sent.certificate is not None


def _renew(site: HeadEnd, holder: Holder) -> None:
    """A concentrator sends under the newest key of its own, and the head-end has heard that.

    One without meters has nothing to say.
    """
    newest = site.truth.newest(holder.title)
    if newest is None or newest[1].state not in ACCEPTABLE:
        site.begin_next_key(holder)
    site.fetch_next_key(holder)
    site.say_sums(holder)
    site.arrive(0, site.air[-1:], worker=0)
    key = site.truth.keys[holder.title, holder.epoch]
    is_idle = key.state == "pending" and site.air[-1].octets in site.truth.misplaced
    assert key.state == "active" or is_idle, f"a concentrator's newest key is {key.state}"
    site.fetch_hop_keys(holder)


def _assert_not_locked_out(site: HeadEnd, meter: HonestMeter) -> None:
    """A fresh frame is accepted; where the key was cut off, once a new one has come."""
    key = site.truth.keys.get((meter.title, meter.epoch))
    assert key is not None, "the meter has a key that the head-end does not know"
    if key.state not in ("pending", "active"):
        assert key.state == "compromised"
        _bring_new_key(site, meter)
    _prove_key(site, meter)
    if meter.scheme == "hop":
        site.bring_home(meter)
        _prove_key(site, meter)  # a key command may have come before
    site.read([meter], 5)
    uplink_id = site.post(0, [site.air[-1]])
    site.verify(uplink_id, site.workers[0])
    verdicts = site.truth.uplinks[uplink_id].verdicts
    assert verdicts == [ACCEPTED], f"a fresh frame, {site.air[-1]}, is {verdicts} under a key that is {key.state}"
    key = site.truth.keys[meter.title, meter.epoch]
    assert key.state == "active", f"the key of {meter.title.hex()}, a meter of scheme {meter.scheme}, is {key.state}"


def _assert_still_pushes(site: HeadEnd, meter: HonestMeter) -> None:
    """A fresh frame of a DLMS meter is accepted, unless its key set was cut off: the next one comes from elsewhere."""
    site.bring_next_set(meter)
    state = site.truth.keys[meter.title, meter.epoch].state
    site.read([meter], 5)
    site.arrive(0, site.air[-1:], worker=0)
    verdicts = site.truth.uplinks[max(site.truth.uplinks)].verdicts
    assert verdicts == [ACCEPTED if state in ACCEPTABLE else "key_retired"], f"a fresh frame of DLMS is {verdicts}"


def _prove_key(site: HeadEnd, meter: HonestMeter) -> None:
    """A meter's own frame arrives: of scheme hop nothing else proves that a key is with it."""
    for holder in site.holders.values():
        site.fetch_hop_keys(holder)
    site.air += meter.say_event(clock.now_s)
    site.arrive(0, site.air[-1:], worker=0)


def _bring_new_key(site: HeadEnd, meter: HonestMeter) -> None:
    """As operators do after a compromise; commands that went before have to end first."""
    site.pass_time(timedelta(days=8))
    queue.expire(clock.now)
    site.give_new_key(meter)


def _assert_books_agree(site: HeadEnd) -> None:
    window = site.start - timedelta(days=400), site.start + timedelta(days=60)
    assert totals.compare(*window) == []
    finish_rotation()
    assert not MasterKeyRotation.objects.exclude(state="finished").exists()
    assert census.verify().faults == []
    assert len(census.census()) == 1
    chain.verify()
