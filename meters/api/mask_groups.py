"""REST: which mask authorities meters were made with."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.audit.chain import web_actor
from meters.api.serializers import SELECTION_MAX, SystemTitleField
from meters.models import Meter
from meters.registry import mask_groups
from meters.registry.mask_groups import MaskGroupError


class MaskGroupSerializer(serializers.Serializer[Any]):
    """Meters that were made with the mask authorities of a group; an empty name is the group without a name."""

    mask_group = serializers.CharField(max_length=60, allow_blank=True, trim_whitespace=False)
    meters = serializers.ListField(child=SystemTitleField(), min_length=1, max_length=SELECTION_MAX)


class MaskGroupChangedSerializer(serializers.Serializer[Any]):
    """How many of them were of another group before."""

    changed = serializers.IntegerField()


class MaskGroups(generics.GenericAPIView[Any]):
    """The mask groups of meters."""

    queryset = Meter.objects.none()
    refusals = (MaskGroupError,)
    rights = {"POST": ["meters.change_meter"]}

    @extend_schema(
        operation_id="mask_groups_assign",
        tags=["meters"],
        request=MaskGroupSerializer,
        responses=MaskGroupChangedSerializer,
    )
    def post(self, request: Request) -> Response:
        """Say which mask authorities meters were made with; audited."""
        body = MaskGroupSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        changed = mask_groups.assign(asked["meters"], asked["mask_group"], web_actor(request))
        return Response({"changed": changed})
