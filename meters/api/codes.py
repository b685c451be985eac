"""REST: the tables of codes for events, ReadingTypes and qualities, and what the site put in them."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.audit.chain import web_actor
from meters.api.meters import ParameterView
from meters.api.serializers import QuerySerializer
from meters.code_models import SiteCode
from meters.codes.tables import KEY_LENGTH, CodeError, Table
from meters.registry import site_codes
from meters.registry.site_codes import Listed

_TABLES = [(table.value, table.label) for table in Table]


class CodesQuery(QuerySerializer):
    table = serializers.ChoiceField(_TABLES, required=False, help_text="one table alone")


class CodeQuery(QuerySerializer):
    table = serializers.ChoiceField(_TABLES)
    key = serializers.CharField(max_length=KEY_LENGTH)


class CodeSerializer(serializers.Serializer[Any]):
    """An entry in force; docs/events.md and docs/formats.md say what its fields are."""

    table = serializers.ChoiceField(_TABLES)
    key = serializers.CharField(help_text="log and code, OBIS code, or fact")
    value = serializers.DictField(help_text="the fields of the entry")
    is_of_site = serializers.BooleanField(help_text="whether the site put it there")
    shipped = serializers.DictField(allow_null=True, help_text="what it stands for; null: only the site has it")
    is_verified = serializers.BooleanField(help_text="false: a shipped entry that public uses do not agree on")
    changed_at = serializers.DateTimeField(allow_null=True)
    changed_by = serializers.CharField(allow_blank=True)


class NewCodeSerializer(serializers.Serializer[Any]):
    """An entry of the site, with all its fields."""

    table = serializers.ChoiceField(_TABLES)
    key = serializers.CharField(max_length=KEY_LENGTH)
    value = serializers.DictField()


class CodeList(ParameterView):
    """Codes for events, ReadingTypes and qualities of readings."""

    queryset = SiteCode.objects.none()
    query_class = CodesQuery
    refusals = (CodeError,)

    @extend_schema(operation_id="codes", tags=["codes"], parameters=[CodesQuery], responses=CodeSerializer(many=True))
    def get(self, request: Request) -> Response:
        """All entries in force, by table and key: those of the site and the shipped ones."""
        asked = self.parameters(request)
        wanted = [Table(asked["table"])] if "table" in asked else list(Table)
        rows = [_row(table, listed) for table in wanted for listed in site_codes.entries(table)]
        return Response(CodeSerializer(rows, many=True).data)

    @extend_schema(operation_id="codes_put", tags=["codes"], request=NewCodeSerializer, responses=CodeSerializer)
    def put(self, request: Request) -> Response:
        """Put an entry of the site in the place of the shipped one, or beside them; audited."""
        body = NewCodeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        table = Table(said["table"])
        site_codes.put(table, {said["key"]: said["value"]}, web_actor(request), timezone.now())
        (stored,) = (one for one in site_codes.entries(table) if one.key == said["key"])
        return Response(CodeSerializer(_row(table, stored)).data)

    @extend_schema(
        operation_id="codes_reset",
        tags=["codes"],
        parameters=[CodeQuery],
        responses={204: OpenApiResponse(description="The shipped entry is in force again, if there is one")},
    )
    def delete(self, request: Request) -> Response:
        """Remove an entry of the site, so that the shipped one is in force again; audited."""
        query = CodeQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        table, key = Table(query.validated_data["table"]), query.validated_data["key"]
        if not site_codes.reset(table, key, web_actor(request)):
            raise NotFound(f"the site has no entry {key} in the table {table}")
        return Response(status=204)


def _row(table: Table, listed: Listed) -> dict[str, Any]:
    return {"table": table.value, **listed._asdict()}
