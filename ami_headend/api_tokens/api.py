"""REST: tokens of programs. People with the right make, rotate and revoke them; a token cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import exceptions, generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from ami_headend.api_tokens import tokens
from ami_headend.api_tokens.models import ApiToken
from ami_headend.api_tokens.tokens import Made, TokenError, UnknownTokenError
from ami_headend.web.scopes import Scope
from keyvault.audit.chain import web_actor
from meters.api.meters import ParameterView
from meters.api.serializers import GroupsField, NumberedPageQuery, page_of

_HOUR = timedelta(hours=1)
_CHANGE = "api_tokens.change_apitoken"


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    """A token, without its secret."""

    number = serializers.IntegerField(source="pk")
    scopes = serializers.ListField(child=serializers.ChoiceField(list(Scope)))
    state = serializers.SerializerMethodField()
    previous_until = serializers.DateTimeField(
        allow_null=True, help_text="until then the secret before the last rotation is good, too"
    )

    class Meta:
        model = ApiToken
        fields: tuple[str, ...] = (
            "number",
            "name",
            "scopes",
            "group_ids",
            "state",
            "created_at",
            "created_by",
            "issued_at",
            "expires_at",
            "previous_until",
            "previous_used_at",
            "last_used_at",
            "last_used_from",
            "revoked_at",
        )

    def get_state(self, token: ApiToken) -> str:
        return token.state(timezone.now())


class MadeSerializer(TokenSerializer):
    """A token with its secret: it is in this one answer, and nobody can see it again."""

    secret = serializers.CharField()

    class Meta(TokenSerializer.Meta):
        fields = (*TokenSerializer.Meta.fields, "secret")


def _days() -> serializers.IntegerField:
    return serializers.IntegerField(
        required=False, min_value=1, help_text="how long the secret is valid; default and most: API_TOKEN_DAYS_MAX"
    )


class NewTokenSerializer(serializers.Serializer[Any]):
    """The program, and what it may do."""

    name = serializers.CharField(max_length=100, help_text="as records name it")
    scopes = serializers.ListField(child=serializers.ChoiceField(list(Scope)), min_length=1, max_length=len(Scope))
    groups = GroupsField(
        required=False, help_text="only for meters in any of these groups (kind:name, or a tag); default: all meters"
    )
    days = _days()


class RotationSerializer(serializers.Serializer[Any]):
    """How long the new secret is valid, and how long the present one is good beside it."""

    days = _days()
    overlap_hours = serializers.IntegerField(
        default=tokens.OVERLAP // _HOUR, min_value=0, max_value=tokens.OVERLAP_MAX // _HOUR
    )


class TokenList(ParameterView):
    """Tokens of programs by number."""

    queryset = ApiToken.objects.none()
    query_class = NumberedPageQuery
    refusals = (TokenError,)

    @extend_schema(
        operation_id="tokens",
        tags=["tokens"],
        parameters=[NumberedPageQuery],
        responses=page_of("TokenPage", TokenSerializer),
    )
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        rows = tokens.listed().filter(pk__gt=asked["cursor"]).order_by("pk")[: asked["page_size"]]
        return self.numbered_page(request, list(rows), TokenSerializer, asked)

    @extend_schema(
        operation_id="tokens_create", tags=["tokens"], request=NewTokenSerializer, responses={201: MadeSerializer}
    )
    def post(self, request: Request) -> Response:
        """Make a token; audited. Its secret is in this answer alone."""
        body = NewTokenSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        days = asked.get("days", settings.API_TOKEN_DAYS_MAX)
        now, of_groups = timezone.now(), asked.get("groups")
        made = tokens.make(web_actor(request), asked["name"], asked["scopes"], days, now, of_groups)
        return _shown_once(made)


class TokenDetail(generics.GenericAPIView[Any]):
    """One token."""

    queryset = ApiToken.objects.none()
    refusals = (TokenError,)
    rights = {"DELETE": [_CHANGE]}

    @extend_schema(
        operation_id="tokens_revoke",
        tags=["tokens"],
        responses={204: OpenApiResponse(description="It is refused from now on, for good.")},
    )
    def delete(self, request: Request, number: int) -> HttpResponse:
        """Revoke a token; audited."""
        with _not_found():
            tokens.revoke(web_actor(request), number, timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class TokenRotation(generics.GenericAPIView[Any]):
    """A new secret for a token."""

    queryset = ApiToken.objects.none()
    refusals = (TokenError,)
    rights = {"POST": [_CHANGE]}

    @extend_schema(
        operation_id="tokens_rotate", tags=["tokens"], request=RotationSerializer, responses={201: MadeSerializer}
    )
    def post(self, request: Request, number: int) -> Response:
        """Rotate a token; audited. For some hours both secrets are good."""
        body = RotationSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        days = asked.get("days", settings.API_TOKEN_DAYS_MAX)
        overlap = asked["overlap_hours"] * _HOUR
        with _not_found():
            made = tokens.rotate(web_actor(request), number, days, overlap, timezone.now())
        return _shown_once(made)


@contextmanager
def _not_found() -> Iterator[None]:
    """Answer 404 where there is no such token."""
    try:
        yield
    except UnknownTokenError as error:
        raise exceptions.NotFound(str(error)) from None


def _shown_once(made: Made) -> Response:
    told = {**TokenSerializer(made.token).data, "secret": made.secret}
    return Response(told, status=status.HTTP_201_CREATED)
