"""REST: deliveries of subscriptions of the feed. People with the right make, change and remove them; a token cannot."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.feed import bodies
from concentrators.feed.deliveries import configuration
from concentrators.feed.deliveries.configuration import DeliverySettingError, Made, Wanted
from concentrators.feed.rows import Resource
from concentrators.models import DeliveryKind, FeedDelivery
from concentrators.models.feed import ADDRESS_LENGTH, HOST_KEY_LENGTH
from keyvault.audit.chain import web_actor
from keyvault.receiver_logins import PASSWORD_OCTETS_MAX
from meters.api.serializers import GroupsField


class DeliverySerializer(serializers.ModelSerializer[FeedDelivery]):
    """How a subscription is delivered, and how that stands."""

    subscription = serializers.CharField(source="subscription.name")
    group = serializers.CharField(allow_null=True, help_text="only meters in it, as of now")

    class Meta:
        model = FeedDelivery
        fields: tuple[str, ...] = (
            "subscription", "kind", "address", "format", "rows", "wait_minutes", "group", "host_key", "is_enabled",
            "created_at", "batches", "rows_sent", "delivered_at", "attempts", "due_at", "last_error",
        )  # fmt: skip


class MadeDeliverySerializer(DeliverySerializer):
    """A delivery with what its receiver needs: the secret is in this one answer, and nobody can see it again."""

    secret = serializers.CharField(help_text="of a webhook: whsec_...; otherwise empty")
    public_key = serializers.CharField(help_text="of a new SFTP login: a line of authorized_keys; otherwise empty")

    class Meta(DeliverySerializer.Meta):
        fields = (*DeliverySerializer.Meta.fields, "secret", "public_key")


class WantedSerializer(serializers.Serializer[Any]):
    """What is not given stays as it is, or has its usual value."""

    kind = serializers.ChoiceField(DeliveryKind.choices, required=False, help_text="of a new one; it never changes")
    address = serializers.CharField(
        max_length=ADDRESS_LENGTH, required=False, help_text="URL, sftp://user@host/, or folder"
    )
    format = serializers.ChoiceField(list(bodies.FORMS), required=False, help_text="default: ndjson")
    rows = serializers.IntegerField(required=False, min_value=1, max_value=1_000_000, help_text="the most of a batch")
    wait_minutes = serializers.IntegerField(
        required=False, min_value=0, max_value=configuration.WAIT_MINUTES_MAX,
        help_text="a batch that is not full goes out when its oldest row has this age",
    )  # fmt: skip
    group = GroupsField(required=False, help_text="only meters in this group (kind:name); [] for all")
    host_key = serializers.CharField(
        max_length=HOST_KEY_LENGTH, required=False, help_text="of the SFTP server: ssh-ed25519 AAAA..."
    )
    password = serializers.CharField(
        max_length=PASSWORD_OCTETS_MAX, required=False, write_only=True, trim_whitespace=False,
        help_text="for the SFTP server; without it the head-end signs in with a key of its own",
    )  # fmt: skip
    is_enabled = serializers.BooleanField(required=False)
    resource = serializers.ChoiceField(
        [one.value for one in Resource], required=False, help_text="of a subscription that is not there yet"
    )
    at_end = serializers.BooleanField(default=False, help_text="a new subscription begins with what comes from now on")


class DeliveryDetail(generics.GenericAPIView[Any]):
    """The delivery of a subscription."""

    queryset = FeedDelivery.objects.none()
    refusals = (DeliverySettingError,)

    @extend_schema(operation_id="feed_delivery", tags=["feed"], responses=DeliverySerializer)
    def get(self, request: Request, name: str) -> Response:
        return Response(DeliverySerializer(_found(name)).data)

    @extend_schema(
        operation_id="feed_delivery_update", tags=["feed"], request=WantedSerializer, responses=MadeDeliverySerializer
    )
    def put(self, request: Request, name: str) -> Response:
        """Make or change it, and the subscription if there is none; audited. A secret is in this answer alone."""
        body = WantedSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        resource, at_end = given.pop("resource", None), given.pop("at_end")
        if "group" in given:
            chosen = given.pop("group")
            if len(chosen) > 1:
                raise serializers.ValidationError({"group": ["name one group"]})
            given |= {"group": chosen[0]} if chosen else {"for_all": True}
        made = configuration.save(
            name, Wanted(**given), web_actor(request), timezone.now(),
            resource=resource and Resource(resource), at_end=at_end,
        )  # fmt: skip
        return _shown(made)

    @extend_schema(operation_id="feed_delivery_delete", tags=["feed"], responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Remove it with its secrets; the subscription stays where it is. Audited."""
        _found(name)
        configuration.remove(name, web_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class DeliverySecret(generics.GenericAPIView[Any]):
    """What a delivery signs with, or signs in with."""

    queryset = FeedDelivery.objects.none()
    refusals = (DeliverySettingError,)
    rights = {"POST": ["concentrators.change_feeddelivery"]}

    @extend_schema(operation_id="feed_delivery_secret", tags=["feed"], request=None, responses=MadeDeliverySerializer)
    def post(self, request: Request, name: str) -> Response:
        """Make a new signing secret (the former one signs, too, for a day), or a new key; audited."""
        _found(name)
        return _shown(configuration.new_secret(name, web_actor(request), timezone.now()))


def _found(name: str) -> FeedDelivery:
    try:
        return configuration.found(name)
    except DeliverySettingError as error:
        raise NotFound(str(error)) from None


def _shown(made: Made) -> Response:
    told = {**DeliverySerializer(made.delivery).data, "secret": made.secret, "public_key": made.public_key}
    return Response(told)
