"""What simulated DLMS meters push, opened and read as the head-end does it."""

from decimal import Decimal

from concentrators.simulator.factory import Factory
from concentrators.simulator.keys import FIRST_EPOCH
from concentrators.simulator.notifications import forms, late_form
from concentrators.simulator.plan import Plan
from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import make_kid
from keyvault.schemes.lines import OpenedKey
from keyvault.schemes.table import ENVELOPES, parse_frame
from meters.readings.push.definition import Definition, parse_definition
from meters.readings.push.profiles import parse_notification, read
from meters.readings.senml import SenmlRecord


def open_pushed(plan: Plan, factory: Factory, octets: bytes) -> tuple[bytes, int, bytes]:
    """(kid, counter, notification) by the key set of either epoch; TagInvalidError if neither opens it."""
    frame = parse_frame(octets)
    number = int.from_bytes(frame.kid[5:8], "big")
    for epoch, key_set in ((FIRST_EPOCH, factory.device_key(number)), (FIRST_EPOCH + 1, factory.next_key(number))):
        if key_set:
            key = OpenedKey(key_set, frame.kid, epoch, plan.algorithm_of(number))
            try:
                return make_kid(frame.kid, epoch), frame.counter, ENVELOPES["dlms"].cipher(key).open_(frame)
            except TagInvalidError:
                continue
    raise TagInvalidError


def profiles(plan: Plan) -> dict[str, Definition]:
    """The definitions of the run's push profiles by the form that they are for."""
    all_forms = [*forms(plan.system_title(0), plan.start_s), late_form(plan.start_s)]
    return {parse_notification(one.sample).skeleton: parse_definition(one.definition) for one in all_forms}


def read_pushed(plan: Plan, title: bytes, payload: bytes) -> list[SenmlRecord]:
    """The values of a notification; ContentError as its profile refuses it, LookupError if none is for its form."""
    found = parse_notification(payload)
    values = read(found, profiles(plan)[found.skeleton], title)
    return [
        SenmlRecord(
            one.obis, one.units[0], one.raw if not one.scaler else Decimal(one.raw).scaleb(one.scaler), one.at_s
        )
        for one in values
    ]
