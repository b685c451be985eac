"""REST: places where energy is metered, with address, customer reference, coordinates and meters."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from keyvault.audit.chain import web_actor
from meters.api.meters import ParameterView, end_of_page
from meters.api.serializers import PAGE_MAX, GroupsField, QuerySerializer, SystemTitleField, given, ids_of, page_of
from meters.models import Installation, Place
from meters.registry import access_record, changes, groups, place_readings


class InstallationSerializer(serializers.ModelSerializer[Installation]):
    """A meter at the place, and since when; ``removed_at`` is null while it hangs there."""

    system_title = SystemTitleField(source="meter.system_title")
    serial_number = serializers.CharField(source="meter.serial_number")

    class Meta:
        model = Installation
        fields = ("system_title", "serial_number", "installed_at", "removed_at")


class PlaceSerializer(serializers.ModelSerializer[Place]):
    """A place. Its coordinates are degrees (WGS 84); either both are given or none."""

    latitude = serializers.DecimalField(8, 6, min_value=-90, max_value=90, allow_null=True, required=False)
    longitude = serializers.DecimalField(9, 6, min_value=-180, max_value=180, allow_null=True, required=False)

    class Meta:
        model = Place
        fields: tuple[str, ...] = ("id", "name", "address", "customer_reference", "latitude", "longitude")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        latitude, longitude = (
            attrs.get(name, getattr(self.instance, name, None)) for name in ("latitude", "longitude")
        )
        if (latitude is None) != (longitude is None):
            raise serializers.ValidationError({"latitude": ["give both latitude and longitude, or none"]})
        return attrs


class PlaceDetailSerializer(PlaceSerializer):
    """A place with its present and past meters, the latest first."""

    meters = serializers.SerializerMethodField()

    class Meta(PlaceSerializer.Meta):
        fields = (*PlaceSerializer.Meta.fields, "meters")

    @extend_schema(responses=InstallationSerializer(many=True))
    def get_meters(self, place: Place) -> list[dict[str, Any]]:
        return list(InstallationSerializer(place_readings.installations(place), many=True).data)


class PlacesQuery(QuerySerializer):
    name = serializers.CharField(required=False, max_length=120, help_text="first characters of the name")
    customer_reference = serializers.CharField(required=False, max_length=64, help_text="exactly")
    group = GroupsField(required=False, help_text="places that are in any of these groups; may be repeated")
    page_size = serializers.IntegerField(default=100, min_value=1, max_value=PAGE_MAX)
    cursor = serializers.CharField(required=False, max_length=120, help_text="from `next` of the previous page")


class PlaceList(ParameterView):
    """Places by name."""

    queryset = Place.objects.none()
    query_class = PlacesQuery

    @extend_schema(operation_id="places", parameters=[PlacesQuery], responses=page_of("PlacePage", PlaceSerializer))
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        wanted = given(asked, name__startswith="name", customer_reference="customer_reference")
        order = "pk" if "group" in asked else "name"  # as they stand in a group's index
        found = Place.objects.filter(**wanted).order_by(order)
        if "group" in asked:
            found = found.filter(groups.places_in_order(ids_of(asked["group"]) or ()))
        if "cursor" in asked:
            found = found.filter(**{f"{order}__gt": end_of_page(asked["cursor"], order)})
        access_record.note(request)
        page = list(found[: asked["page_size"]])
        full = len(page) == asked["page_size"]
        following = self.next_page(request, str(getattr(page[-1], order))) if full else None
        return Response({"next": following, "results": PlaceSerializer(page, many=True).data})

    @extend_schema(operation_id="places_create", request=PlaceSerializer, responses={201: PlaceSerializer})
    def post(self, request: Request) -> Response:
        asked = PlaceSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        place = Place(**asked.validated_data)
        changes.add(web_actor(request), place)
        return Response(PlaceSerializer(place).data, status=201)


class PlaceDetail(generics.RetrieveUpdateAPIView[Place]):
    """One place."""

    queryset = Place.objects.all()
    serializer_class = PlaceDetailSerializer
    http_method_names = ["get", "patch", "options"]

    @extend_schema(operation_id="place")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        access_record.note(request, place=self.get_object().pk)
        return super().get(request, *args, **kwargs)

    @extend_schema(operation_id="place_update")
    def patch(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        access_record.note(request, place=self.get_object().pk)
        return super().patch(request, *args, **kwargs)

    def perform_update(self, serializer: BaseSerializer[Place]) -> None:
        place = serializer.instance
        assert isinstance(place, Place)  # noqa: S101 - of its queryset
        fields = [name for name, value in serializer.validated_data.items() if getattr(place, name) != value]
        for name in fields:
            setattr(place, name, serializer.validated_data[name])
        changes.change(web_actor(self.request), place, fields)
