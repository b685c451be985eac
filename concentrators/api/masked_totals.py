"""REST: masked totals, and the signed answers that each was computed from."""

from typing import Any

import pyarrow as pa
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from concentrators.models import IntervalTotal
from concentrators.totals import masked_queries
from concentrators.totals.masked_queries import MaskedTotalSelection
from meters.api.meters import SelectionView, page_responses
from meters.api.serializers import GroupsField, PageQuery, ids_of


class MaskedTotalsQuery(PageQuery):
    """A period of interval starts, groups, and a page."""

    group = GroupsField(
        required=False, help_text="with any meter in any of these groups now, beside others; may be repeated"
    )
    cursor_ids = 1


class MaskedTotalSerializer(serializers.Serializer[Any]):
    """The sum of meters that mask their single values: value_sum x 10^scaler unit; null while it is not known.

    `waits_for` names the mask authorities that have not answered; `refusal` says why there will never be a total.
    """

    id = serializers.IntegerField()
    obis_code = serializers.CharField()
    interval_start = serializers.DateTimeField()
    interval_minutes = serializers.IntegerField()
    mask_group = serializers.CharField()
    meters = serializers.IntegerField()
    value_sum = serializers.IntegerField(allow_null=True)
    scaler = serializers.IntegerField()
    unit = serializers.CharField()
    refusal = serializers.CharField()
    waits_for = serializers.CharField()


class SignedAnswerSerializer(serializers.Serializer[Any]):
    """The sum of masks that an authority signed: COSE_Sign1 in hexadecimal, under its Ed25519 public key."""

    authority = serializers.CharField()
    public_key = serializers.CharField()
    answer = serializers.CharField()
    mask_sum = serializers.IntegerField()


class MaskedAnswersSerializer(serializers.Serializer[Any]):
    """The meters of a set by system title, and what each authority answered."""

    system_titles = serializers.ListField(child=serializers.CharField())
    answers = SignedAnswerSerializer(many=True)


class MaskedTotalList(SelectionView):
    """Masked totals in order of time."""

    queryset = IntervalTotal.objects.none()
    query_class = MaskedTotalsQuery
    query = staticmethod(masked_queries.totals)
    filename = "masked-totals"
    mixes_groups = True  # a sum with a meter of a group has meters of others, too
    schema_of_rows = pa.schema(
        [
            ("id", pa.int64()),
            ("obis_code", pa.string()),
            ("interval_start", pa.timestamp("us", tz="UTC")),
            ("interval_minutes", pa.int16()),
            ("mask_group", pa.string()),
            ("meters", pa.int32()),
            ("value_sum", pa.decimal128(38, 0)),
            ("scaler", pa.int16()),
            ("unit", pa.string()),
            ("refusal", pa.string()),
            ("waits_for", pa.string()),
        ]
    )

    def note(self, request: Request, asked: dict[str, Any]) -> None:
        """Record nothing: sums over ten meters and more reveal nothing about one."""

    def selection(self, asked: dict[str, Any]) -> MaskedTotalSelection:
        return MaskedTotalSelection(asked["from"], asked["to"], asked.get("cursor"), ids_of(asked.get("group")))

    @extend_schema(
        operation_id="masked_totals",
        tags=["totals"],
        parameters=[MaskedTotalsQuery],
        responses=page_responses("MaskedTotalPage", MaskedTotalSerializer),
    )
    def get(self, request: Request) -> Any:
        return super().get(request)


class MaskedTotalAnswers(APIView):
    """The meters of one masked total, and the signed answers that it was computed from."""

    queryset = IntervalTotal.objects.none()

    @extend_schema(operation_id="masked_total_answers", tags=["totals"], responses=MaskedAnswersSerializer)
    def get(self, request: Request, set_id: int) -> Response:
        found = masked_queries.evidence(set_id)
        if found is None:
            raise Http404
        titles, answers = found
        rows = [
            {
                "authority": one.authority,
                "public_key": one.public,
                "answer": one.octets.hex(),
                "mask_sum": one.mask_sum,
            }
            for one in answers
        ]
        return Response({"system_titles": titles, "answers": rows})
