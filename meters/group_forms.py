"""Form fields for groups and tags, which are written by name: a choice among thousands would be no choice."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from meters.group_models import FleetGroup
from meters.registry import groups
from meters.registry.groups import GroupError, GroupName

_PLACEHOLDER = "district:North, or a tag"


class GroupsField(forms.CharField):
    """A filter by groups, separated by |: rows of any of them are shown."""

    def __init__(self, **options: Any) -> None:
        widget = UnfoldAdminTextInputWidget(attrs={"placeholder": _PLACEHOLDER, "spellcheck": "false"})
        super().__init__(max_length=2_000, widget=widget, **{"required": False, "label": "Group", **options})

    def clean(self, value: Any) -> Any:
        """Return the groups, None where none is written; ValidationError names one that does not exist."""
        written = super().clean(value)
        try:
            return groups.find(map(str, groups.parse_all(written))) if written else None
        except GroupError as error:
            raise _invalid(error) from None


class GroupField(GroupsField):
    """One group that exists."""

    def clean(self, value: Any) -> FleetGroup | None:
        """Return the group, None where none is written; ValidationError."""
        found = super().clean(value)
        if found and len(found) > 1:
            raise forms.ValidationError("Name one group.")
        return found[0] if found else None

    def prepare_value(self, value: Any) -> Any:
        """Write the group of a row by its name."""
        if isinstance(value, int):
            value = FleetGroup.objects.filter(pk=value).first()
        return str(value) if isinstance(value, FleetGroup) else value


class GroupNameField(GroupsField):
    """The name of a group that may be new."""

    def clean(self, value: Any) -> GroupName | None:
        """Return the name; ValidationError for what cannot be one."""
        written = forms.CharField.clean(self, value)
        try:
            return groups.parse(written) if written else None
        except GroupError as error:
            raise _invalid(error) from None


def ids(found: list[FleetGroup] | None) -> list[int] | None:
    """Return the ids of the groups of a filter; None for all rows."""
    return None if found is None else [group.pk for group in found]


def _invalid(error: GroupError) -> forms.ValidationError:
    return forms.ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.")
