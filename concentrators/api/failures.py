"""REST: frames that were rejected, newest first. Their octets are on the pages of the console."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.failures import queries
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.queries import FailureKey, FailureSelection
from concentrators.models import Concentrator, IntegrityFailure
from meters.api.meters import ParameterView
from meters.api.serializers import (
    CursorField,
    GroupsField,
    NamedField,
    PageSizeQuery,
    SystemTitleField,
    ids_of,
    page_of,
)
from meters.models import Meter

_SEVERITIES = [severity.name.lower() for severity in Severity]


class FailuresQuery(PageSizeQuery):
    """Filters of failures received in [from, to): kind, severity, state, claimed meter, concentrator, uplink."""

    to = serializers.DateTimeField(required=False, help_text="end, exclusive (ISO 8601)")
    kind = serializers.ChoiceField([kind.value for kind in FailureKind], required=False)
    severity = serializers.ChoiceField(_SEVERITIES, required=False)
    state = serializers.ChoiceField(["open", "acknowledged"], required=False)
    meter = SystemTitleField(required=False, help_text="system title of a meter, or one that frames claim")
    concentrator = NamedField(slug_field="name", queryset=Concentrator.objects.all(), required=False)
    uplink = serializers.IntegerField(min_value=1, max_value=2**63 - 1, required=False)
    group = GroupsField(
        required=False,
        help_text="of meters in any of these groups now; of no known meter: of concentrators in them; may be repeated",
    )
    cursor = CursorField(required=False, help_text="from `next` of the previous page")

    def get_fields(self) -> dict[str, Any]:
        start = serializers.DateTimeField(required=False, help_text="start (ISO 8601)")
        return {"from": start, **super().get_fields()}

    def validate_cursor(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(value) != len(FailureKey._fields):
            raise serializers.ValidationError("a cursor of another list: follow `next` unchanged")
        return value

    def selection(self) -> FailureSelection:
        """Return the selection of a valid query."""
        asked = self.validated_data
        title, concentrator = asked.get("meter"), asked.get("concentrator")
        meter = None if title is None else Meter.objects.filter(system_title=title).first()
        return FailureSelection(
            kinds=[FailureKind(asked["kind"])] if "kind" in asked else None,
            severity=Severity[asked["severity"].upper()] if "severity" in asked else None,
            is_open=asked["state"] == "open" if "state" in asked else None,
            meter_id=None if meter is None else meter.pk,
            system_title=title if meter is None else None,
            concentrator_id=None if concentrator is None else concentrator.pk,
            uplink_id=asked.get("uplink"),
            group_ids=ids_of(asked.get("group")),
            start=asked.get("from"),
            end=asked.get("to"),
            after=FailureKey(*asked["cursor"]) if "cursor" in asked else None,
        )


class FailureSerializer(serializers.Serializer[Any]):
    """A frame that was rejected."""

    id = serializers.IntegerField()
    received_at = serializers.DateTimeField()
    kind = serializers.ChoiceField([kind.value for kind in FailureKind])
    severity = serializers.SerializerMethodField()
    meter = serializers.CharField(allow_null=True, help_text="serial number; null if no known meter is claimed")
    concentrator = serializers.CharField()
    uplink = serializers.IntegerField(source="uplink_id")
    frame_index = serializers.IntegerField()
    kid = serializers.CharField(allow_null=True, help_text="as the frame claims, in hex")
    invocation_counter = serializers.IntegerField(allow_null=True)
    detail = serializers.CharField()
    acknowledged_by = serializers.CharField(allow_null=True)
    acknowledged_at = serializers.DateTimeField(allow_null=True)
    note = serializers.CharField(allow_null=True)

    def get_severity(self, row: Any) -> str:
        return Severity(row.severity).name.lower()


class FailureList(ParameterView):
    """Failures, newest first."""

    queryset = IntegrityFailure.objects.none()
    query_class = FailuresQuery

    @extend_schema(
        operation_id="failures", parameters=[FailuresQuery], responses=page_of("FailurePage", FailureSerializer)
    )
    def get(self, request: Request) -> Response:
        query = FailuresQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        rows, key = queries.failures(query.selection(), query.validated_data["page_size"])
        following = key and self.next_page(request, CursorField().to_representation(key))
        return Response({"next": following, "results": FailureSerializer(rows, many=True).data})
