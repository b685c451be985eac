"""REST: alerts, as the pages show them. Alerts are handled on the pages."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from ami_headend.alerts.models import Alert
from ami_headend.alerts.queries import of_groups
from concentrators.failures.kinds import Severity
from meters.api.meters import ParameterView
from meters.api.serializers import GroupsField, NumberedPageQuery, ids_of, page_of

_SEVERITIES = [severity.name.lower() for severity in Severity]


class AlertsQuery(NumberedPageQuery):
    state = serializers.ChoiceField(["open", "ended"], required=False)
    severity = serializers.ChoiceField(_SEVERITIES, required=False)
    group = GroupsField(required=False, help_text="of meters and concentrators in any of these groups now")


class AlertSerializer(serializers.Serializer[Any]):
    """A problem that was found, and its history."""

    number = serializers.IntegerField(source="pk")
    rule = serializers.CharField(source="rule.name")
    condition = serializers.CharField(source="rule.condition")
    severity = serializers.SerializerMethodField()
    subject = serializers.CharField()
    summary = serializers.CharField()
    opened_at = serializers.DateTimeField()
    resolved_at = serializers.DateTimeField(allow_null=True)
    acknowledged_by = serializers.CharField(allow_blank=True)
    acknowledged_at = serializers.DateTimeField(allow_null=True)
    snoozed_until = serializers.DateTimeField(allow_null=True)

    def get_severity(self, alert: Alert) -> str:
        return Severity(alert.severity).name.lower()


class AlertList(ParameterView):
    """Alerts by their number, oldest first."""

    queryset = Alert.objects.none()
    query_class = AlertsQuery

    @extend_schema(operation_id="alerts", parameters=[AlertsQuery], responses=page_of("AlertPage", AlertSerializer))
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        rows = Alert.objects.filter(pk__gt=asked["cursor"]).select_related("rule").order_by("pk")
        if "state" in asked:
            rows = rows.filter(resolved_at__isnull=asked["state"] == "open")
        if "severity" in asked:
            rows = rows.filter(severity=Severity[asked["severity"].upper()])
        if "group" in asked:
            rows = rows.filter(of_groups(ids_of(asked["group"]) or ()))
        return self.numbered_page(request, list(rows[: asked["page_size"]]), AlertSerializer, asked)
