"""REST: read success by deadline (docs/operations/deadlines.md)."""

from collections.abc import Collection, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from ami_headend.core.clock import EARLIEST, LATEST
from concentrators.api.selection import ConcentratorField
from concentrators.fleet import groups
from concentrators.models import IntervalTotal, ReadDay, ReadDeadline, ReadShare
from concentrators.totals import read_deadlines, read_success
from concentrators.totals.read_deadlines import DayStatus
from meters.api.meters import ParameterView
from meters.api.serializers import SELECTION_MAX, GroupsField, QuerySerializer, ids_of

STATUSES = [status.value for status in DayStatus]


def check_day(day: date) -> None:
    """Raise ValidationError for a day that no reading can be of."""
    if not EARLIEST.date() < day < LATEST.date():
        raise serializers.ValidationError("there are no readings of such a day")


class ChosenQuery(QuerySerializer):
    """Concentrators by name or by groups."""

    concentrator = serializers.ListField(
        child=ConcentratorField(),
        required=False,
        max_length=SELECTION_MAX,
        help_text="name; may be repeated",
    )
    group = GroupsField(required=False, help_text="concentrators that are in any of these groups now; may be repeated")


class DeadlinesQuery(ChosenQuery):
    """A day; concentrators by name or by groups; and how many of them are listed."""

    day = serializers.DateField(
        required=False,
        validators=[check_day],
        help_text="whose intervals are due, in the zone of each deadline; default: yesterday in UTC",
    )
    limit = serializers.IntegerField(
        default=100, min_value=0, max_value=10_000, help_text="concentrators listed at most, the worst first"
    )


class ShareSerializer(serializers.Serializer[Any]):
    """Intervals of one concentrator."""

    concentrator = serializers.CharField()
    expected = serializers.IntegerField()
    in_time = serializers.IntegerField()
    late = serializers.IntegerField()
    status = serializers.ChoiceField(STATUSES)


class DeadlineDaySerializer(serializers.Serializer[Any]):
    """One deadline: intervals of the day that were expected, had arrived in time, and came late so far.

    Numbers are over all chosen concentrators, also those that are not listed. None is given while the day is open: not
    due, or not counted yet.
    """

    deadline = serializers.CharField()
    due_at = serializers.DateTimeField()
    target_percent = serializers.DecimalField(5, 2)
    counted_at = serializers.DateTimeField(allow_null=True)
    expected = serializers.IntegerField(allow_null=True)
    in_time = serializers.IntegerField(allow_null=True)
    late = serializers.IntegerField(allow_null=True)
    status = serializers.ChoiceField(STATUSES)
    concentrators = ShareSerializer(many=True)


class DeadlinesSerializer(serializers.Serializer[Any]):
    """A day by each deadline: those that were counted, then those that are open."""

    day = serializers.DateField()
    results = DeadlineDaySerializer(many=True)


class DeadlineSuccess(ParameterView):
    """Read success of a day by each deadline."""

    queryset = IntervalTotal.objects.none()
    query_class = DeadlinesQuery

    @extend_schema(operation_id="completeness_deadlines", parameters=[DeadlinesQuery], responses=DeadlinesSerializer)
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        chosen = chosen_ids(asked)
        now = timezone.now()
        asked_day = asked.get("day", now.date() - timedelta(days=1))
        days = list(read_success.days_of(asked_day))
        sums = {} if chosen is None else read_success.sums(days, chosen)
        rows = [_said(day, sums.get(day.pk), asked["limit"], chosen) for day in days]
        rows += [_open(deadline, at) for deadline, at in read_success.open_deadlines(asked_day, now)]
        return Response(DeadlinesSerializer({"day": asked_day, "results": rows}).data)


class FeedCompleteness(DeadlineSuccess):
    """For consumers of the feed: how many intervals of a day arrived by each deadline, came late, or are missing."""

    @extend_schema(operation_id="feed_completeness", parameters=[DeadlinesQuery], responses=DeadlinesSerializer)
    def get(self, request: Request) -> Response:
        return super().get(request)


def chosen_ids(asked: Mapping[str, Any]) -> list[int] | None:
    """Return the concentrators that a query means by their ids; None for all."""
    found = ids_of(asked.get("concentrator"))
    if "group" in asked:
        of_groups = groups.concentrator_ids(ids_of(asked["group"]) or ())
        found = of_groups if found is None else sorted(set(found).intersection(of_groups))
    return found


def _open(deadline: ReadDeadline, due_at: datetime) -> dict[str, Any]:
    unknown = dict.fromkeys(("counted_at", "expected", "in_time", "late"))
    said = {"deadline": deadline.name, "due_at": due_at, "target_percent": deadline.target_percent}
    return {**said, **unknown, "status": DayStatus.OPEN, "concentrators": []}


def _said(
    day: ReadDay, chosen: read_success.Success | None, limit: int, concentrator_ids: Collection[int] | None
) -> dict[str, Any]:
    counted = chosen or read_success.Success(day.expected, day.in_time, day.late)
    return {
        "deadline": day.deadline.name,
        "due_at": day.due_at,
        "target_percent": day.target_percent,
        "counted_at": day.counted_at,
        **counted._asdict(),
        "status": read_deadlines.status(counted.expected, counted.in_time, day.target_percent),
        "concentrators": [_listed(row, day) for row in read_success.worst(day, limit, concentrator_ids)],
    }


def _listed(row: ReadShare, day: ReadDay) -> dict[str, Any]:
    return {
        "concentrator": row.concentrator.name,
        "expected": row.expected,
        "in_time": row.in_time,
        "late": row.late,
        "status": read_deadlines.status(row.expected, row.in_time, day.target_percent),
    }
