"""Forms of rules and channels, which check the numbers of a condition and where messages may go."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from ami_headend.alerts.high_water_marks import PERIOD_MAX_MINUTES
from ami_headend.alerts.models import Channel, ChannelKind, Condition, Rule
from ami_headend.alerts.parameters import PARAMETERS, Parameters
from ami_headend.core.refused_addresses import RefusedAddressError
from ami_headend.core.webhook_exchange import check_url
from meters.group_forms import GroupField

_RECIPIENTS_MAX = 20
_EXPLAINED_MAX = 5


class RuleForm(forms.ModelForm[Rule]):
    """A rule, with only those numbers that its condition has."""

    group = GroupField(help_text="only its meters and concentrators, as of now; empty for all")

    class Meta:
        model = Rule
        fields = [
            "name",
            "condition",
            "selector",
            "threshold",
            "period_minutes",
            "group",
            "severity",
            "quiet_minutes",
            "is_enabled",
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None or "threshold" not in self.fields:
            return
        needed = PARAMETERS[Condition(self.instance.condition)]
        for name, what in (
            ("selector", needed.selector),
            ("threshold", needed.threshold),
            ("period_minutes", needed.period),
        ):
            if what is None:
                self.fields.pop(name, None)
            elif name in self.fields:
                self.fields[name].label = what
                self.fields[name].help_text = _meanings(needed) if name == "selector" else ""
        if not needed.may_have_group:
            self.fields.pop("group", None)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        condition = cleaned.get("condition") or self.instance.condition
        if condition not in Condition.values:
            return cleaned
        needed = PARAMETERS[Condition(condition)]
        self._clean_number(cleaned, "threshold", needed.threshold, needed.threshold_max)
        self._clean_number(cleaned, "period_minutes", needed.period, PERIOD_MAX_MINUTES)
        chosen = cleaned.get("selector") or ""
        if needed.selector is None:
            cleaned["selector"] = ""
        elif not needed.takes(chosen):
            known = ", ".join(value for value, _ in needed.selectors)
            self.add_error("selector", f"This condition needs a {needed.selector}, one of: {known}.")
        if cleaned.get("group") and not needed.may_have_group:
            self.add_error("group", "This condition is about the whole head-end, so it has no group.")
        return cleaned

    def _clean_number(self, cleaned: dict[str, Any], name: str, what: str | None, most: float) -> None:
        value = cleaned.get(name)
        if what is None:
            cleaned[name] = None
        elif value is None and name not in self.errors:
            self.add_error(name, f"This condition needs a number here: {what}.")
        elif value is not None and not 0 < value <= most:
            self.add_error(name, f"The number ({what}) must be above 0 and at most {most:,.0f}.")


def _meanings(needed: Parameters) -> str:
    """Return what the few choices of a selector mean; nothing where they are many."""
    few = len(needed.selectors) <= _EXPLAINED_MAX
    return "; ".join(f"{value}: {meaning}" for value, meaning in needed.selectors) if few else ""


class ChannelForm(forms.ModelForm[Channel]):
    """A channel; its kind cannot be changed once it is made."""

    group = GroupField(help_text="of daily mails: only its concentrators; empty for all")

    class Meta:
        model = Channel
        fields = ["name", "kind", "address", "least_severity", "deadline", "group", "is_enabled"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        kind, address = cleaned.get("kind") or self.instance.kind, cleaned.get("address")
        if kind == ChannelKind.DEADLINE and not cleaned.get("deadline"):
            self.add_error("deadline", "A daily mail is about a deadline: choose it.")
        elif kind != ChannelKind.DEADLINE:
            cleaned["deadline"] = cleaned["group"] = None
        is_switched_off = self.instance.pk is not None and not cleaned.get("is_enabled")
        if not address or (is_switched_off and "address" not in self.changed_data):
            return cleaned  # also where its address is refused by now
        try:
            if kind == ChannelKind.WEBHOOK:
                check_url(address)
            else:
                cleaned["address"] = _recipients(address)
        except (RefusedAddressError, ValidationError) as error:
            self.add_error("address", str(error) if isinstance(error, RefusedAddressError) else error)
        return cleaned


def _recipients(text: str) -> str:
    addresses = [address.strip() for address in text.split(",")]
    if len(addresses) > _RECIPIENTS_MAX:
        raise ValidationError(f"At most {_RECIPIENTS_MAX} addresses; use a mailing list for more.")
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError:
            raise ValidationError(f"{address!r} is not an e-mail address.") from None
    return ", ".join(addresses)
