"""REST: the terms of deadlines of readings, and their history (docs/operations/deadlines.md)."""

from datetime import date, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.api.read_success import STATUSES, ChosenQuery, check_day, chosen_ids
from concentrators.models import IntervalTotal, ReadDeadline
from concentrators.models.deadlines import check_zone
from concentrators.totals import read_deadlines, read_success
from concentrators.totals.read_deadlines import DayStatus
from concentrators.totals.read_success import DeadlineInUseError, Success
from keyvault.audit.chain import web_actor
from meters.api.meters import ParameterView

_DAYS, _DAYS_MAX = 28, 400
_NUMBER = OpenApiParameter("number", int, OpenApiParameter.PATH, description="number of the deadline")


class DeadlineSerializer(serializers.ModelSerializer[ReadDeadline]):
    """By when the readings of a day are due. A change holds for days that are not counted yet."""

    number = serializers.IntegerField(source="pk", read_only=True)
    zone = serializers.CharField(
        max_length=64, validators=[check_zone], help_text="in which days begin and the time is meant: Europe/Oslo"
    )

    class Meta:
        model = ReadDeadline
        fields = ("number", "name", "due_time", "days_after", "zone", "target_percent", "is_active")


class HistoryQuery(ChosenQuery):
    """Days, both included, and concentrators by name or by groups."""

    first = serializers.DateField(
        required=False, validators=[check_day], help_text=f"default: {_DAYS} days up to the last one"
    )
    last = serializers.DateField(
        required=False, validators=[check_day],
        help_text=f"at most {_DAYS_MAX} days from the first one on; default: yesterday in the zone of the deadline",
    )  # fmt: skip


class HistoryDaySerializer(serializers.Serializer[Any]):
    """A day that was counted: intervals expected, in time, and late so far."""

    day = serializers.DateField()
    due_at = serializers.DateTimeField()
    target_percent = serializers.DecimalField(5, 2)
    expected = serializers.IntegerField()
    in_time = serializers.IntegerField()
    late = serializers.IntegerField()
    status = serializers.ChoiceField([one for one in STATUSES if one != DayStatus.OPEN])


class DeadlineList(generics.GenericAPIView[Any]):
    """Deadlines of readings."""

    queryset = ReadDeadline.objects.none()

    @extend_schema(operation_id="deadlines", responses=DeadlineSerializer(many=True))
    def get(self, request: Request) -> Response:
        """All deadlines by name, active or not."""
        return Response(DeadlineSerializer(ReadDeadline.objects.order_by("name"), many=True).data)

    @extend_schema(operation_id="deadlines_create", request=DeadlineSerializer, responses={201: DeadlineSerializer})
    def post(self, request: Request) -> Response:
        """Make a deadline; audited. The last 35 days are counted for it within minutes."""
        body = DeadlineSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        return _saved(request, ReadDeadline(**body.validated_data), status.HTTP_201_CREATED)


class DeadlineDetail(generics.GenericAPIView[Any]):
    """One deadline of readings."""

    queryset = ReadDeadline.objects.all()
    serializer_class = DeadlineSerializer
    lookup_url_kwarg = "number"
    refusals = (DeadlineInUseError,)

    @extend_schema(operation_id="deadline", parameters=[_NUMBER], responses=DeadlineSerializer)
    def get(self, request: Request, number: int) -> Response:
        return Response(DeadlineSerializer(self.get_object()).data)

    @extend_schema(
        operation_id="deadline_update", parameters=[_NUMBER], request=DeadlineSerializer, responses=DeadlineSerializer
    )
    def patch(self, request: Request, number: int) -> Response:
        """Change a deadline; audited. Days that were counted keep the terms that held."""
        deadline = self.get_object()
        body = DeadlineSerializer(deadline, data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        for field, value in body.validated_data.items():
            setattr(deadline, field, value)
        return _saved(request, deadline, status.HTTP_200_OK)

    @extend_schema(operation_id="deadline_remove", parameters=[_NUMBER], responses={204: None})
    def delete(self, request: Request, number: int) -> Response:
        """Remove a deadline with its history. Refused while it is active; audited."""
        read_success.remove(web_actor(request), self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class DeadlineHistory(ParameterView):
    """Days of a deadline that were counted, oldest first."""

    queryset = IntervalTotal.objects.none()
    query_class = HistoryQuery

    @extend_schema(
        operation_id="deadline_days", parameters=[_NUMBER, HistoryQuery], responses=HistoryDaySerializer(many=True)
    )
    def get(self, request: Request, number: int) -> Response:
        asked = self.parameters(request)
        deadline = generics.get_object_or_404(ReadDeadline, pk=number)
        last, number_of_days = _span(asked, timezone.now().astimezone(deadline.terms.zone).date())
        days = read_success.history(deadline, last, number_of_days)
        chosen = chosen_ids(asked)
        counted = {day.pk: Success(day.expected, day.in_time, day.late) for day in days}
        if chosen is not None:
            counted = read_success.sums(days, chosen)
        rows = [
            {
                "day": day.day,
                "due_at": day.due_at,
                "target_percent": day.target_percent,
                **counted[day.pk]._asdict(),
                "status": read_deadlines.status(counted[day.pk].expected, counted[day.pk].in_time, day.target_percent),
            }
            for day in days
        ]
        return Response(HistoryDaySerializer(rows, many=True).data)


def _span(asked: dict[str, Any], today: date) -> tuple[date, int]:
    """Return the last day that is asked for, and how many days up to it; ValidationError."""
    last: date = asked.get("last", today - timedelta(days=1))
    days = (last - asked["first"]).days + 1 if "first" in asked else _DAYS
    if days < 1:
        whose = "" if "last" in asked else ", which is yesterday unless it is given"
        raise serializers.ValidationError({"first": [f"it is after the last day, {last}{whose}"]})
    if days > _DAYS_MAX:
        raise serializers.ValidationError({"last": [f"these are {days:,} days: ask for at most {_DAYS_MAX} at once"]})
    return last, days


def _saved(request: Request, deadline: ReadDeadline, code: int) -> Response:
    read_success.save(web_actor(request), deadline)
    return Response(DeadlineSerializer(deadline).data, status=code)
