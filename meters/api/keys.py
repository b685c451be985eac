"""REST: the status of device keys. No answer contains their octets."""

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.audit.chain import web_actor
from keyvault.device_keys import agreement_keys, epochs, inventory
from keyvault.device_keys.agreement_keys import VersionUse
from keyvault.device_keys.epochs import EpochError
from keyvault.models import AgreementState, DeviceKey, KeyState
from keyvault.rights import ROTATE_DEVICE_KEYS, SEE_KEYS
from keyvault.schemes.table import algorithm_choices, scheme_choices
from meters.api.meters import ParameterView
from meters.api.serializers import GroupsField, NumberedPageQuery, SystemTitleField, given, ids_of, page_of
from meters.registry import groups


class KeysQuery(NumberedPageQuery):
    meter = SystemTitleField(required=False, help_text="system title")
    state = serializers.ChoiceField([state.value for state in KeyState], required=False)
    scheme = serializers.ChoiceField(scheme_choices(), required=False)
    group = GroupsField(required=False, help_text="of meters in any of these groups now; may be repeated")


class KeySerializer(serializers.ModelSerializer[DeviceKey]):
    """A key with its meter, its state, and its last frame."""

    number = serializers.IntegerField(source="pk")
    system_title = SystemTitleField()
    epoch = serializers.IntegerField(help_text="0 is the transfer key, under which others are sent")
    algorithm = serializers.ChoiceField(algorithm_choices(), help_text="COSE algorithm")
    state = serializers.ChoiceField([state.value for state in KeyState])
    master_key_version = serializers.IntegerField(allow_null=True, help_text="null for derived keys")
    highest_counter = serializers.IntegerField(allow_null=True, help_text="null until a frame is accepted under it")
    heard_at = serializers.DateTimeField(allow_null=True)

    class Meta:
        model = DeviceKey
        fields = (
            "number",
            "system_title",
            "epoch",
            "algorithm",
            "scheme",
            "state",
            "source",
            "master_key_version",
            "created_at",
            "activated_at",
            "highest_counter",
            "heard_at",
        )


class AgreementKeySerializer(serializers.Serializer[Any]):
    """A version of the head-end's agreement key: its public key, for makers of meters and of certificates."""

    name = serializers.CharField(source="key.name", help_text="what certificates of meters call their aud")
    version = serializers.IntegerField(source="key.version")
    state = serializers.ChoiceField([state.value for state in AgreementState], source="key.state")
    public_key = serializers.SerializerMethodField(help_text="X25519 (RFC 7748), 32 octets as 64 hex digits")
    created_at = serializers.DateTimeField(source="key.created_at")
    replaced_at = serializers.DateTimeField(source="key.replaced_at", allow_null=True)
    cut_off_at = serializers.DateTimeField(source="key.cut_off_at", allow_null=True)
    meters = serializers.IntegerField(help_text="meters that send under keys agreed with it")
    usable_keys = serializers.IntegerField(source="usable", help_text="keys agreed with it that are still accepted")

    def get_public_key(self, use: VersionUse) -> str:
        return bytes(use.key.public).hex()


class AgreementKeyList(generics.GenericAPIView[Any]):
    """The versions of the head-end's agreement keys, by name and newest first. No answer has private keys."""

    queryset = DeviceKey.objects.none()
    serializer_class = AgreementKeySerializer

    @extend_schema(operation_id="agreement_keys", tags=["keys"], responses=AgreementKeySerializer(many=True))
    def get(self, request: Request) -> Response:
        return Response(AgreementKeySerializer(agreement_keys.standings(), many=True).data)


class KeyList(ParameterView):
    """Device keys, by number."""

    queryset = DeviceKey.objects.none()
    query_class = KeysQuery

    @extend_schema(operation_id="keys", parameters=[KeysQuery], responses=page_of("KeyPage", KeySerializer))
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        wanted = given(asked, system_title="meter", state="state", scheme="scheme")
        rows = DeviceKey.objects.filter(pk__gt=asked["cursor"], **wanted).defer("wrapped").order_by("pk")
        if "group" in asked:
            rows = rows.filter(groups.of_titles(ids_of(asked["group"]) or ()))
        found: list[Any] = list(rows[: asked["page_size"]])
        counters = inventory.counters([key.pk for key in found])
        for key in found:
            key.highest_counter, key.heard_at = counters.get(key.pk, (None, None))
        return self.numbered_page(request, found, KeySerializer, asked)


class KeyRetirement(generics.GenericAPIView[Any]):
    """The end of a retiring key."""

    queryset = DeviceKey.objects.defer("wrapped")
    serializer_class = KeySerializer
    refusals = (EpochError,)
    rights = {"POST": [SEE_KEYS, ROTATE_DEVICE_KEYS]}

    @extend_schema(operation_id="keys_retire", tags=["keys"], request=None, responses=KeySerializer)
    def post(self, request: Request, number: int) -> Response:
        """Retire a retiring key before its grace time is over; audited. Late frames under it are refused then."""
        key: Any = get_object_or_404(self.get_queryset(), pk=number, epoch__gt=0)
        epochs.retire(key, web_actor(request))
        key.refresh_from_db(fields=["state", "version"])
        key.highest_counter, key.heard_at = inventory.counters([key.pk]).get(key.pk, (None, None))
        return Response(KeySerializer(key).data)
