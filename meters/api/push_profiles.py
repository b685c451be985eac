"""REST for push profiles: what the columns of DLMS notifications are (docs/dlms.md)."""

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.audit.chain import web_actor
from meters.api.meters import ParameterView
from meters.api.serializers import NumberedPageQuery, OctetsField, SystemTitleField, page_of
from meters.models import PushProfile
from meters.readings import push_profiles
from meters.readings.push.definition import ProfileError
from meters.readings.push_profiles import PREFIX_OCTETS, ProfileWish

_SAMPLE_MAX_OCTETS = 4096
_MANUFACTURER_OCTETS = 3


class PushProfileSerializer(serializers.ModelSerializer[PushProfile]):
    """A version of a push profile, which never changes. Its sample is left out, because it has readings of a meter."""

    number = serializers.IntegerField(source="pk")
    title_prefix = OctetsField(help_text="what the system titles of its meters begin with, 3 to 8 octets")
    definition = serializers.DictField(help_text="docs/dlms.md section 3")
    skeleton_sha256 = OctetsField(help_text="SHA-256 of the skeleton, 32 octets")
    retired_at = serializers.DateTimeField(allow_null=True, help_text="null as long as it is used")

    class Meta:
        model = PushProfile
        fields = (
            "number",
            "name",
            "version",
            "title_prefix",
            "definition",
            "skeleton",
            "skeleton_sha256",
            "created_at",
            "retired_at",
        )


class NewPushProfileSerializer(serializers.Serializer[Any]):
    """A profile to register; an existing name gets a new version."""

    name = serializers.CharField(max_length=64)
    definition = serializers.DictField(help_text="docs/dlms.md section 3")
    sample = OctetsField(
        max_length=2 * _SAMPLE_MAX_OCTETS,
        help_text="a decrypted notification in hex digits: 0f, c2, or a P1 telegram",
    )
    system_title = SystemTitleField(help_text="of the meter that sent the sample")
    title_prefix = OctetsField(
        required=False,
        max_length=2 * PREFIX_OCTETS[-1],
        help_text="what the titles of its meters begin with; else the first 3 octets, which are the manufacturer's",
    )


class PushProfileList(ParameterView):
    """Push profiles, by number."""

    queryset = PushProfile.objects.none()
    query_class = NumberedPageQuery
    refusals = (ProfileError,)

    @extend_schema(
        operation_id="push_profiles",
        tags=["push profiles"],
        parameters=[NumberedPageQuery],
        responses=page_of("PushProfilePage", PushProfileSerializer),
    )
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        rows = PushProfile.objects.filter(pk__gt=asked["cursor"]).defer("sample").order_by("pk")
        return self.numbered_page(request, list(rows[: asked["page_size"]]), PushProfileSerializer, asked)

    @extend_schema(
        operation_id="push_profiles_create",
        tags=["push profiles"],
        request=NewPushProfileSerializer,
        responses={201: PushProfileSerializer},
    )
    def post(self, request: Request) -> Response:
        """Register a profile, which must read its sample; audited. Frames that wait for it are judged again."""
        body = NewPushProfileSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        title = said["system_title"]
        prefix = said.get("title_prefix", title[:_MANUFACTURER_OCTETS])
        wish = ProfileWish(said["name"], prefix, said["definition"], said["sample"], title)
        profile = push_profiles.add(wish, web_actor(request))
        return Response(PushProfileSerializer(profile).data, status=status.HTTP_201_CREATED)


class PushProfileRetirement(generics.GenericAPIView[Any]):
    """The end of a version of a push profile."""

    queryset = PushProfile.objects.none()
    serializer_class = PushProfileSerializer
    refusals = (ProfileError,)

    @extend_schema(
        operation_id="push_profiles_retire", tags=["push profiles"], request=None, responses=PushProfileSerializer
    )
    def post(self, request: Request, number: int) -> Response:
        """Retire a version: no notification is read by it any more; audited. Others of its form read, or wait."""
        profile = get_object_or_404(PushProfile, pk=number)
        push_profiles.retire(profile.name, profile.version, web_actor(request))
        profile.refresh_from_db(fields=["retired_at"])
        return Response(PushProfileSerializer(profile).data)
