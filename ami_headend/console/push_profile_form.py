"""The form of a push profile: what it asks of a sample, and the definition that the answers make."""

from collections.abc import Sequence
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from ami_headend.console.push_profiles import manufacturer
from meters.readings.push.clocks import is_date_time
from meters.readings.push.definition import ROWS, UNITS, Kind
from meters.readings.push.elements import Element
from meters.readings.push.profiles import Notification, elements_in

_UNIT_NAMES = sorted({name for names in UNITS.values() for name in names})


def _text(**attrs: Any) -> UnfoldAdminTextInputWidget:
    return UnfoldAdminTextInputWidget(attrs={"spellcheck": "false", "autocomplete": "off", **attrs})


def _select(label: str, choices: Sequence[tuple[str, str]], help_text: str = "", *, required: bool = True) -> Any:
    return forms.ChoiceField(
        label=label, choices=choices, help_text=help_text, required=required, widget=UnfoldAdminSelectWidget
    )


def _ratio(label: str) -> forms.IntegerField:
    return forms.IntegerField(label=label, min_value=1, initial=1, widget=UnfoldAdminIntegerFieldWidget)


class ProfileForm(forms.Form):
    """Name, meters, clock and factors of a profile."""

    name = forms.CharField(
        max_length=64, widget=_text(), help_text="a name that is there already gets its next version"
    )
    titles = _select("For meters", [])
    clock_from = _select("Time of the values", [])
    zone = forms.CharField(
        required=False,
        max_length=60,
        label="Zone",
        widget=_text(placeholder="Europe/Vienna or fixed+60"),
        help_text="of clocks that do not say how far they are from UTC; others are checked against it",
    )
    deviation = _select(
        "Deviation",
        [("standard", "standard: UTC = local + deviation"), ("reversed", "reversed: UTC = local - deviation")],
    )
    invalid_bit = _select(
        "A clock that calls itself invalid",
        [("refuse", "refuse the notification"), ("keep", "take its time all the same")],
    )
    interval_time = _select(
        "Times of interval registers",
        [("", "there are none"), ("start", "start of the interval"), ("end", "end of the interval")],
        required=False,
    )
    period_s = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=86_400,
        label="Seconds between rows",
        help_text="where rows have no clock of their own",
        widget=UnfoldAdminIntegerFieldWidget,
    )
    voltage_ratio = _ratio("Ratio of voltage transformers")
    current_ratio = _ratio("Ratio of current transformers")

    def __init__(self, *args: Any, sample: Notification, kind: Kind, elements: Sequence[Element], title: bytes) -> None:
        super().__init__(*args)
        self._choose(
            "titles", [(title[:3].hex(), f"all of {manufacturer(title[:3])}"), (title.hex(), f"{title.hex()} alone")]
        )
        self._choose("clock_from", _clocks(sample, elements, kind))
        if kind not in ROWS:
            del self.fields["period_s"]

    def _choose(self, name: str, choices: list[tuple[str, str]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 - for the types alone
        field.choices = choices

    def definition(self, kind: Kind, columns: Sequence["ColumnForm"]) -> dict[str, Any]:
        """Return the definition that a valid form and its valid columns make."""
        said = self.cleaned_data
        clock = {name: said[name] for name in ("zone", "deviation", "invalid_bit") if said[name]}
        definition: dict[str, Any] = {
            "kind": kind.value,
            "clock": {"from": said["clock_from"], **clock},
            "columns": [column for one in columns if (column := one.column())],
        }
        if factor := {name: said[name] for name in ("voltage_ratio", "current_ratio") if said[name] != 1}:
            definition["factor"] = factor
        return definition | {name: said[name] for name in ("interval_time", "period_s") if said.get(name)}


def _clocks(sample: Notification, elements: Sequence[Element], kind: Kind) -> list[tuple[str, str]]:
    """Where a time may stand: in the notification itself, or in an element of 12 octets."""
    carrier = sample.data or sample.event
    found = []
    if carrier is not None and carrier.date_time:
        found.append(("apdu", f"the notification: {shown(carrier.date_time)}"))
    for one in elements_in(sample) if kind in ROWS else elements:  # of rows the time stands beside them, or in each
        if isinstance(one.value, bytes) and is_date_time(one.value):
            place = one.obis if one.obis and kind is not Kind.POSITIONAL else f"body[{one.place}]"
            found.append((place, f"element {one.place}: {shown(one.value)}"))
    return found or [("apdu", "the notification, which says none here")]


class ColumnForm(forms.Form):
    """What one element of the sample says."""

    means = _select("It is", [])
    register = forms.CharField(
        required=False, max_length=24, label="Register", widget=_text(placeholder="1-0:1.8.0", list="registers")
    )
    scaler = forms.IntegerField(
        required=False, min_value=-12, max_value=12, label="Power of ten", widget=UnfoldAdminIntegerFieldWidget
    )
    unit = _select("Unit", [], required=False)

    def __init__(self, data: Any, element: Element, kind: Kind) -> None:
        is_number = isinstance(element.value, int | float)
        means = [
            ("value", "value of a register"),
            ("ignore", "not wanted"),
            ("system_title", "title of the meter"),
            ("device_id", "serial number of the meter"),
        ]
        if kind in ROWS:
            means.append(("clock", "time of the row"))
        is_usual = bool(element.obis) and is_number
        is_asked = is_number and not is_usual
        if is_asked:
            means.insert(0, ("", "choose …"))
        initial = {"means": "value" if is_usual else "" if is_asked else "ignore", "register": element.obis}
        super().__init__(data, prefix=f"at{element.place}", initial=initial)
        self.element, self._kind = element, kind
        field, unit = self.fields["means"], self.fields["unit"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 - for the types alone
        assert isinstance(unit, forms.ChoiceField)  # noqa: S101
        field.choices = means
        unsaid = "as the frame says" if element.unit else "the frame says none"
        unit.choices = [("", unsaid), *((name, name) for name in _UNIT_NAMES)]
        field.error_messages["required"] = "Say what this element is."

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("means") == "value":
            if not cleaned.get("register"):
                self.add_error("register", "Name the register.")
            if (cleaned.get("scaler") is None) != (not cleaned.get("unit")):
                self.add_error("unit", "Power of ten and unit go together; 0 is a power, too.")
            elif not cleaned.get("unit") and self.element.unit is None:
                self.add_error("unit", "The frame says none: enter power and unit, or choose that it is not wanted.")
        return cleaned

    def column(self) -> dict[str, Any]:
        """Return the column of the definition; an empty one where the frame says all that is needed."""
        said, element = self.cleaned_data, self.element
        at: dict[str, Any] = {"at": element.place}
        match said["means"]:
            case "ignore":
                is_needed = element.obis or isinstance(element.value, int | float)
                return {**at, "ignore": True} if is_needed else {}
            case "value":
                if said["register"] == element.obis and not said["unit"]:
                    return {}
                scaled = {"scaler": said["scaler"], "unit": said["unit"]} if said["unit"] else {}
                return {**at, "obis": said["register"], **scaled}
            case role:
                return {**at, "is": role}

    @property
    def value(self) -> str:
        """The element's value in the sample, as text."""
        return shown(self.element.value)

    @property
    def type(self) -> str:
        """What kind of value it is."""
        value = self.element.value
        if value is None:
            return "nothing, or a group of values"
        if isinstance(value, bytes):
            return "date-time" if is_date_time(value) else f"{len(value)} octets"
        return "number" if isinstance(value, int) else "floating-point number"

    @property
    def said(self) -> str:
        """Scaler and unit that the frame says."""
        if self.element.unit is None:
            return ""
        scaler, code = self.element.unit
        return f"x 10^{scaler} {' or '.join(UNITS.get(code, (f'DLMS unit {code}',)))}"


def shown(value: object) -> str:
    """Write a value of a notification: text in quotes, a date-time as it is said, other octets in hex digits."""
    if value is None:
        return "-"
    if not isinstance(value, bytes):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if is_date_time(value):
        parts = (int.from_bytes(value[:2], "big"), value[2], value[3], value[5], value[6], value[7])
        return "{:04}-{:02}-{:02} {:02}:{:02}:{:02}".format(*parts) + f" ({value.hex()})"
    if value and value.isascii() and value.decode().isprintable():
        return f'"{value.decode()}"'
    return value.hex()
