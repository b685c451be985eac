"""Content ``push``: DLMS notifications, read by the push profile of their form. Pure (docs/dlms.md).

``meters.readings.push.profiles`` reads the elements.
"""

from meters.contents.lines import Catalogue, Content, RegisterRow
from meters.contents.plain import check_bounds, check_over, once
from meters.readings.push.definition import Definition
from meters.readings.push.profiles import ContentError, OtherMeterError, PushValue, parse_notification, read
from meters.readings.push.shapes import Shape, learn
from meters.readings.push.skeleton import digest
from meters.registry.interval_lengths import Lengths
from meters.values import PayloadError, PayloadRefusal, PayloadTimes, Value, iso

# The reason of unknown_profile; whoever lists what waits finds form and manufacturer in it.
NO_PROFILE = "no push profile of form {form} for meters of {manufacturer}: {skeleton}"
_MANUFACTURER_OCTETS = 3  # of a title
_SHAPES_LOOKED_AT = 1000
_TITLES_KEPT = 100_000


class PushReader:
    """Reads notifications by the registers and push profiles of one catalogue."""

    def __init__(self, registers: Catalogue) -> None:
        self._registers = registers
        # By the longest beginning of the meter's title that any profile is for, and the octets of a notification: the
        # profile of a form is one for all meters that have the same.
        self._shapes: dict[bytes, dict[int, list[Shape]]] = {}
        self._of_title: dict[bytes, dict[int, list[Shape]]] = {}
        self._looked_at: set[tuple[int, bytes, str]] = set()
        self._profiles: dict[bytes, list[tuple[bytes, Definition]]] = {}
        for prefix, sha256, definition in registers.profiles:
            self._profiles.setdefault(sha256, []).append((prefix, definition))
        self._prefixes = {prefix for prefix, _, _ in registers.profiles}
        self._prefix_octets = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        for found in self._profiles.values():
            found.sort(key=lambda one: -len(one[0]))  # stable: of equal ones the newest stays first

    def read(
        self,
        payload: bytes,
        system_title: bytes,
        interval_minutes: int,
        period: PayloadTimes,
        lengths: Lengths | None = None,
        serial_number: str | None = None,
    ) -> list[Value]:
        """The values of a notification, or PayloadError: see Reader."""
        shapes = self._of_title.get(system_title)
        if shapes is None:
            shapes = self._shapes_of(system_title)
        for shape in shapes.get(len(payload), ()):
            found = shape.values(payload, interval_minutes, period, lengths)
            if found is not None:
                return found
        try:
            notification = parse_notification(payload)
            definition = self._definition(notification.skeleton, system_title)
            said = read(notification, definition, system_title, serial_number)
        except OtherMeterError as error:
            raise PayloadError(PayloadRefusal.IDENTITY_MISMATCH, str(error)) from None
        except ContentError as error:
            raise _invalid(str(error)) from None
        values = self._values(said, definition, interval_minutes, period, lengths)
        self._learn(payload, notification.skeleton, definition, system_title)
        return values

    def _learn(self, payload: bytes, skeleton: str, definition: Definition, system_title: bytes) -> None:
        """Keep the shape of a notification that was read, if it has one: the next one is read by it."""
        looked_at = len(payload), self._prefix(system_title), skeleton
        if looked_at in self._looked_at or len(self._looked_at) >= _SHAPES_LOOKED_AT:
            return
        self._looked_at.add(looked_at)
        shape = learn(payload, definition, system_title, self._registers.get)
        if shape is not None:
            self._shapes_of(system_title).setdefault(len(payload), []).append(shape)

    def _shapes_of(self, system_title: bytes) -> dict[int, list[Shape]]:
        shapes = self._shapes.setdefault(self._prefix(system_title), {})
        if len(self._of_title) >= _TITLES_KEPT:
            self._of_title.clear()
        self._of_title[system_title] = shapes
        return shapes

    def _prefix(self, system_title: bytes) -> bytes:
        for octets in self._prefix_octets:
            if system_title[:octets] in self._prefixes:
                return system_title[:octets]
        return b""

    def _definition(self, skeleton: str, system_title: bytes) -> Definition:
        """The profile of a form: of several that of the longest part of the title, then the newest."""
        sha256 = digest(skeleton)
        for prefix, definition in self._profiles.get(sha256, ()):
            if system_title.startswith(prefix):
                return definition
        manufacturer = system_title[:_MANUFACTURER_OCTETS].hex()
        detail = NO_PROFILE.format(form=sha256.hex()[:16], manufacturer=manufacturer, skeleton=skeleton)
        raise PayloadError(PayloadRefusal.UNKNOWN_PROFILE, detail[:500])

    def _values(
        self,
        said: list[PushValue],
        definition: Definition,
        interval_minutes: int,
        period: PayloadTimes,
        lengths: Lengths | None,
    ) -> list[Value]:
        values, unknown, mismatch, all_read = [], "", "", True
        for one in said:
            if definition.thin_s and one.at_s % definition.thin_s >= definition.push_s:
                continue
            register = self._registers.get(one.obis)
            if register is None:
                unknown = unknown or one.obis
                continue
            steps = _steps(one, register)
            if steps is None:
                mismatch, all_read = mismatch or f"{one.obis} is finer than its register, in steps", False
                continue
            value = _value(one, register, steps, definition, interval_minutes, lengths)
            if value.interval_minutes and value.captured_s % (value.interval_minutes * 60):
                minutes = value.interval_minutes
                mismatch = mismatch or f"{one.obis} begins at {iso(value.captured_s)}, no multiple of {minutes} minutes"
            values.append(value)
        values = once(values, self._registers)
        earliest_s = min((one.at_s for one in said), default=period.earliest_s)
        if earliest_s < period.earliest_s:
            raise PayloadError(PayloadRefusal.TOO_OLD, f"the time {iso(earliest_s)} is before what is kept")
        if unknown:
            raise PayloadError(PayloadRefusal.UNKNOWN_REGISTER, f"no register {unknown} is known")
        if mismatch:
            raise PayloadError(PayloadRefusal.REGISTRY_MISMATCH, mismatch, values if all_read else None)
        check_bounds(values, self._registers)
        check_over(values, period, self._registers)
        return values


def _steps(one: PushValue, register: RegisterRow) -> int | None:
    """A value in the steps of its register; None where it is finer than one."""
    if register.unit not in one.units:
        units = " or ".join(one.units)
        raise _invalid(f"{one.obis} is in {units}; the register counts {register.unit}")
    finer = one.scaler - register.scaler
    if finer >= 0:
        return int(one.raw * 10**finer)
    steps, rest = divmod(one.raw, 10**-finer)
    return None if rest else steps


def _value(
    one: PushValue,
    register: RegisterRow,
    steps: int,
    definition: Definition,
    interval_minutes: int,
    lengths: Lengths | None,
) -> Value:
    if not -(2**63) <= steps < 2**63:
        raise _invalid(f"{one.obis} says a number that cannot be stored")
    if not register.is_interval:
        return Value(one.at_s, register.id, steps, 0, register.is_event)
    if definition.interval_ends is None:
        raise _invalid(f"{one.obis} is of intervals, and the profile does not say whether times are start or end")
    minutes = interval_minutes if lengths is None else lengths.at(one.at_s - definition.interval_ends)
    return Value(one.at_s - 60 * minutes * definition.interval_ends, register.id, steps, minutes, register.is_event)


def _invalid(detail: str) -> PayloadError:
    return PayloadError(PayloadRefusal.PAYLOAD_INVALID, detail)


PUSH = Content("push", PushReader, reference="IEC 62056-6-2, IEC 62056-5-3 data-notification")
