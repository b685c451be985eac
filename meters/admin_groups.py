"""The filter of admin lists by groups."""

from collections.abc import Callable, Collection
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import TextFilter

from meters.registry import groups
from meters.registry.groups import GroupError


class GroupFilter(TextFilter):  # type: ignore[misc]
    """Rows of meters in any of the groups that are written, with | between them."""

    title = "group (district:North, or a tag)"
    parameter_name = "group"
    condition: Callable[[Collection[int]], Q] = staticmethod(groups.of_meters)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        written = self.value() or ""
        if not written.strip():
            return queryset
        try:
            found = groups.find(map(str, groups.parse_all(written)))
        except GroupError as error:
            raise IncorrectLookupParameters(str(error)) from error
        return queryset.filter(type(self).condition([group.pk for group in found]))


def group_filter(condition: Callable[[Collection[int]], Q]) -> type[GroupFilter]:
    """Return the filter for rows that meet another condition of groups than that their ``meter`` is in one."""
    return type("GroupFilter", (GroupFilter,), {"condition": staticmethod(condition)})


# Of rows that are for one group at most: those that are for any of these.
OF_GROUPS = group_filter(lambda group_ids: Q(group__in=list(group_ids)))
