"""REST for enrolment by certificate: authorities, certificates, revocations, and meters that may enrol."""

from typing import Any

from django.db.models import OuterRef, Subquery
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions, generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.audit.chain import web_actor
from keyvault.device_keys import epochs
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import AuthorityError
from keyvault.models import Authority, AwaitedEnrolment, DeviceKey, Enrolment, RevokedCertificate
from keyvault.rights import COMPROMISE, PROVISION
from keyvault.schemes.table import SchemeError, algorithm_choices, new_scheme_choices, scheme_choices
from meters.api.meters import ParameterView
from meters.api.serializers import (
    SELECTION_MAX,
    GroupsField,
    NumberedPageQuery,
    OctetsField,
    SystemTitleField,
    given,
    ids_of,
    page_of,
)
from meters.registry import groups
from meters.registry.lookup import unregistered


class AuthoritySerializer(serializers.ModelSerializer[Authority]):
    """An authority whose certificates for keys of meters are accepted as long as it is pinned."""

    kid = OctetsField(help_text="how certificates name it, in hex digits")
    public_key = OctetsField(source="public", help_text="Ed25519 (RFC 8032), 32 octets")
    unpinned_at = serializers.DateTimeField(allow_null=True, help_text="null as long as it is pinned")
    enrolled = serializers.IntegerField(source="enrolments", help_text="how often a certificate of it enrolled a meter")
    revoked = serializers.IntegerField(source="revocations", help_text="certificates that it revoked")

    class Meta:
        model = Authority
        fields = (
            "kid",
            "issuer",
            "public_key",
            "pinned_at",
            "expires_at",
            "unpinned_at",
            "enrolled",
            "revoked",
        )


class AuthorityList(generics.GenericAPIView[Any]):
    """The authorities whose certificates meters enrol with."""

    queryset = DeviceKey.objects.none()

    @extend_schema(operation_id="authorities", tags=["enrolment"], responses=AuthoritySerializer(many=True))
    def get(self, request: Request) -> Response:
        """Authorities by name, pinned ones first."""
        return Response(AuthoritySerializer(authorities.listed(), many=True).data)


class CertifiedQuery(NumberedPageQuery):
    authority = OctetsField(required=False, help_text="the authority's kid, in hex digits")


class CertificatesQuery(CertifiedQuery):
    meter = SystemTitleField(required=False, help_text="system title")
    group = GroupsField(required=False, help_text="of meters in any of these groups now; may be repeated")


class AwaitedQuery(NumberedPageQuery):
    group = GroupsField(required=False, help_text="meters in any of these groups now; may be repeated")


class CertificateSerializer(serializers.ModelSerializer[Enrolment]):
    """A certificate that enrolled a meter."""

    number = serializers.IntegerField(source="pk")
    cti = OctetsField(help_text="the certificate's number")
    system_title = SystemTitleField()
    epoch = serializers.IntegerField(help_text="the key epoch that it enrolled")
    authority = OctetsField(source="authority.kid", help_text="the authority's kid")
    revoked_at = serializers.DateTimeField(allow_null=True, help_text="as the authority says; null: not revoked")
    certificate = OctetsField(help_text="CWT (RFC 8392) in COSE_Sign1")

    class Meta:
        model = Enrolment
        fields = (
            "number",
            "cti",
            "system_title",
            "epoch",
            "authority",
            "issued_at",
            "expires_at",
            "enrolled_at",
            "revoked_at",
            "certificate",
        )


class CertificateList(ParameterView):
    """Certificates that enrolled meters, by number. The head-end knows no others."""

    queryset = DeviceKey.objects.none()
    query_class = CertificatesQuery

    @extend_schema(
        operation_id="certificates",
        tags=["enrolment"],
        parameters=[CertificatesQuery],
        responses=page_of("CertificatePage", CertificateSerializer),
    )
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        wanted = given(asked, authority__kid="authority", system_title="meter")
        revoked = RevokedCertificate.objects.filter(cti=OuterRef("cti"), authority=OuterRef("authority"))
        rows = Enrolment.objects.filter(pk__gt=asked["cursor"], **wanted).select_related("authority").order_by("pk")
        if "group" in asked:
            rows = rows.filter(groups.of_titles(ids_of(asked["group"]) or ()))
        found = rows.annotate(revoked_at=Subquery(revoked.values("revoked_at")))[: asked["page_size"]]
        return self.numbered_page(request, list(found), CertificateSerializer, asked)


class RevocationSerializer(serializers.ModelSerializer[RevokedCertificate]):
    """A certificate that its authority revoked: it can no longer enrol a meter."""

    number = serializers.IntegerField(source="pk")
    cti = OctetsField(help_text="the certificate's number")
    authority = OctetsField(source="authority.kid", help_text="the authority's kid")
    revocation = OctetsField(help_text="COSE_Sign1 of the authority")

    class Meta:
        model = RevokedCertificate
        fields = ("number", "cti", "authority", "revoked_at", "received_at", "revocation")


class NewRevocationSerializer(serializers.Serializer[Any]):
    """A revocation that an authority signed."""

    revocation = OctetsField(help_text="COSE_Sign1 of the authority, in hex digits")
    compromise = serializers.BooleanField(
        default=False, help_text="also cut off the keys that follow from the certificate; takes that right"
    )


class RevokedSerializer(serializers.Serializer[Any]):
    """The revoked certificate, and its keys that are still valid."""

    cti = OctetsField()
    system_title = SystemTitleField(allow_null=True, help_text="the meter that it enrolled; null if it enrolled none")
    usable_keys = serializers.IntegerField(help_text="keys that follow from it and are still accepted")
    compromised_keys = serializers.IntegerField(help_text="keys that this request cut off")


class RevocationList(ParameterView):
    """Revocations, by number."""

    queryset = DeviceKey.objects.none()
    query_class = CertifiedQuery
    refusals = (AuthorityError,)
    rights = {"POST": [PROVISION]}

    @extend_schema(
        operation_id="revocations",
        tags=["enrolment"],
        parameters=[CertifiedQuery],
        responses=page_of("RevocationPage", RevocationSerializer),
    )
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        wanted = given(asked, authority__kid="authority")
        rows = RevokedCertificate.objects.filter(pk__gt=asked["cursor"], **wanted).select_related("authority")
        found = list(rows.order_by("pk")[: asked["page_size"]])
        return self.numbered_page(request, found, RevocationSerializer, asked)

    @extend_schema(
        operation_id="revocations_create",
        tags=["enrolment"],
        request=NewRevocationSerializer,
        responses={201: RevokedSerializer},
    )
    def post(self, request: Request) -> Response:
        """Import a revocation; audited. Keys that the certificate enrolled stay valid unless they are cut off."""
        body = NewRevocationSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        if asked["compromise"] and not request.user.has_perm(COMPROMISE):
            raise exceptions.PermissionDenied("Cutting keys off takes the right to compromise them. Nothing was done.")
        revoked = authorities.revoke(asked["revocation"], web_actor(request), timezone.now())
        cut_off = 0
        if asked["compromise"] and revoked.key_ids:
            cut_off = epochs.compromise(revoked.key_ids, web_actor(request))
        told = {
            "cti": revoked.cti,
            "system_title": None if revoked.enrolment is None else revoked.enrolment.system_title,
            "usable_keys": len(revoked.key_ids) - cut_off,
            "compromised_keys": cut_off,
        }
        return Response(RevokedSerializer(told).data, status=status.HTTP_201_CREATED)


class AwaitedSerializer(serializers.ModelSerializer[AwaitedEnrolment]):
    """A meter that may enrol by certificate, once."""

    number = serializers.IntegerField(source="pk")
    system_title = SystemTitleField()
    scheme = serializers.ChoiceField(scheme_choices(), help_text="of the epoch to come")
    algorithm = serializers.ChoiceField(algorithm_choices(), help_text="COSE algorithm of the epoch to come")
    newest_epoch = serializers.IntegerField(allow_null=True, help_text="of the keys that the meter has; null for none")

    class Meta:
        model = AwaitedEnrolment
        fields = ("number", "system_title", "scheme", "algorithm", "allowed_at", "newest_epoch")


class AllowSerializer(serializers.Serializer[Any]):
    """Registered meters that may enrol, or enrol again, once each."""

    meters = serializers.ListField(child=SystemTitleField(), min_length=1, max_length=SELECTION_MAX)
    scheme = serializers.ChoiceField(
        new_scheme_choices(), required=False, help_text="of the epoch to come; else as it is, or ccm for a new meter"
    )
    algorithm = serializers.ChoiceField(
        algorithm_choices(), required=False, help_text="of the epoch to come; else as it is, or the scheme's usual one"
    )

    def validate_meters(self, titles: list[bytes]) -> list[bytes]:
        if unknown := unregistered(titles):
            raise serializers.ValidationError(
                f"no meter is registered under {', '.join(title.hex() for title in unknown)}"
            )
        return titles


class AllowedSerializer(serializers.Serializer[Any]):
    """How many meters may enrol by this request."""

    meters = serializers.IntegerField()
    by_scheme = serializers.DictField(child=serializers.IntegerField())


class AwaitedList(ParameterView):
    """Meters that may enrol, by number."""

    queryset = DeviceKey.objects.none()
    query_class = AwaitedQuery
    refusals = (AuthorityError, SchemeError)
    rights = {"POST": [PROVISION]}

    @extend_schema(
        operation_id="awaited_enrolments",
        tags=["enrolment"],
        parameters=[AwaitedQuery],
        responses=page_of("AwaitedPage", AwaitedSerializer),
    )
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        keys = DeviceKey.objects.filter(system_title=OuterRef("system_title"), epoch__gt=0).order_by("-epoch")
        rows = AwaitedEnrolment.objects.filter(pk__gt=asked["cursor"]).order_by("pk")
        if "group" in asked:
            rows = rows.filter(groups.of_titles(ids_of(asked["group"]) or ()))
        found = rows.annotate(newest_epoch=Subquery(keys.values("epoch")[:1]))[: asked["page_size"]]
        return self.numbered_page(request, list(found), AwaitedSerializer, asked)

    @extend_schema(
        operation_id="awaited_enrolments_create",
        tags=["enrolment"],
        request=AllowSerializer,
        responses={201: AllowedSerializer},
    )
    def post(self, request: Request) -> Response:
        """Permit meters to enrol, or to enrol again; audited. It replaces earlier permissions."""
        body = AllowSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        now, actor = timezone.now(), web_actor(request)
        allowed = authorities.allow(asked["meters"], actor, now, asked.get("scheme"), asked.get("algorithm"))
        told = {"meters": allowed.total(), "by_scheme": dict(allowed)}
        return Response(AllowedSerializer(told).data, status=status.HTTP_201_CREATED)
