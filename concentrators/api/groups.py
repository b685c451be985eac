"""REST: groups and tags of meters, places and concentrators, and who is in them (docs/operations/groups.md)."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from concentrators.fleet import group_import, groups
from concentrators.fleet.groups import Counts, Members
from keyvault.audit.chain import web_actor
from meters.api.meters import ParameterView
from meters.api.serializers import NumberedPageQuery, page_of
from meters.group_models import FleetGroup
from meters.registry.groups import GroupError, GroupName, parse
from meters.registry.place_rights import may_see_places

_MEMBERS_MAX = 10_000
_NUMBER = OpenApiParameter("number", int, OpenApiParameter.PATH, description="number of the group")


class GroupsQuery(NumberedPageQuery):
    kind = serializers.CharField(required=False, max_length=40, help_text="exactly; `tag` for tags")


class GroupSerializer(serializers.ModelSerializer[FleetGroup]):
    """A group; one of kind `tag` is a tag, which is written as its name alone."""

    number = serializers.IntegerField(source="pk", read_only=True)
    kind = serializers.CharField(max_length=40)
    name = serializers.CharField(max_length=120)
    note = serializers.CharField(max_length=250, allow_blank=True, default="")

    class Meta:
        model = FleetGroup
        fields: tuple[str, ...] = ("number", "kind", "name", "note", "created_at")

    def written(self) -> GroupName:
        """Return the name of a valid request; ValidationError if no group can be named so."""
        said = self.validated_data
        kind, name = (said.get(field) or getattr(self.instance, field) for field in ("kind", "name"))
        try:
            return parse(f"{kind}:{name}")
        except GroupError as error:
            raise ValidationError({"name": [str(error)]}) from None


class CountsSerializer(serializers.Serializer[Counts]):
    meters = serializers.IntegerField()
    places = serializers.IntegerField()
    concentrators = serializers.IntegerField()


class GroupDetailSerializer(GroupSerializer):
    """A group and how many are in it: meters now, by whatever way; places and concentrators themselves."""

    members = serializers.SerializerMethodField()

    class Meta(GroupSerializer.Meta):
        fields = (*GroupSerializer.Meta.fields, "members")

    @extend_schema(responses=CountsSerializer)
    def get_members(self, group: FleetGroup) -> dict[str, int]:
        return groups.size(group)._asdict()


class MembersSerializer(serializers.Serializer[Any]):
    """Meters by serial number or system title; places and concentrators by name."""

    meters = serializers.ListField(child=serializers.CharField(max_length=64), default=[], max_length=_MEMBERS_MAX)
    places = serializers.ListField(child=serializers.CharField(max_length=120), default=[], max_length=_MEMBERS_MAX)
    concentrators = serializers.ListField(
        child=serializers.CharField(max_length=120), default=[], max_length=_MEMBERS_MAX
    )


class MembersChangeSerializer(serializers.Serializer[Any]):
    """Whom to put in, and whom to take out."""

    put = MembersSerializer(required=False)
    take = MembersSerializer(required=False)


class MembersChangedSerializer(serializers.Serializer[Any]):
    """How many came in that were not in before, and how many went that were."""

    put = CountsSerializer()
    take = CountsSerializer()


class GroupList(ParameterView):
    """Groups, by number."""

    queryset = FleetGroup.objects.none()
    query_class = GroupsQuery
    refusals = (GroupError,)

    @extend_schema(operation_id="groups", parameters=[GroupsQuery], responses=page_of("GroupPage", GroupSerializer))
    def get(self, request: Request) -> Response:
        asked = self.parameters(request)
        rows = FleetGroup.objects.filter(pk__gt=asked["cursor"]).order_by("pk")
        if "kind" in asked:
            rows = rows.filter(kind=asked["kind"])
        return self.numbered_page(request, list(rows[: asked["page_size"]]), GroupSerializer, asked)

    @extend_schema(operation_id="groups_create", request=GroupSerializer, responses={201: GroupSerializer})
    def post(self, request: Request) -> Response:
        """Make a group, or a tag (kind `tag`); audited."""
        body = GroupSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        made = groups.make(body.written(), web_actor(request), body.validated_data["note"])
        return Response(GroupSerializer(made).data, status=status.HTTP_201_CREATED)


class _GroupView(ParameterView):
    queryset = FleetGroup.objects.all()
    serializer_class = GroupDetailSerializer
    lookup_url_kwarg = "number"
    refusals = (GroupError,)


class GroupDetail(_GroupView):
    """One group."""

    @extend_schema(operation_id="group", parameters=[_NUMBER], responses=GroupDetailSerializer)
    def get(self, request: Request, number: int) -> Response:
        return Response(GroupDetailSerializer(self.get_object()).data)

    @extend_schema(
        operation_id="group_update", parameters=[_NUMBER], request=GroupSerializer, responses=GroupDetailSerializer
    )
    def patch(self, request: Request, number: int) -> Response:
        """Change kind, name or note; audited. What refers to the group follows."""
        group = self.get_object()
        body = GroupSerializer(group, data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        groups.change(group, web_actor(request), body.written(), body.validated_data.get("note"))
        return Response(GroupDetailSerializer(group).data)

    @extend_schema(operation_id="group_remove", parameters=[_NUMBER], responses={204: None})
    def delete(self, request: Request, number: int) -> Response:
        """Remove the group; its members stay. Refused while a rule is for it; audited."""
        groups.remove(self.get_object(), web_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class GroupMembers(_GroupView):
    """Who is in a group. `meters?group=` and `places?group=` list them."""

    rights = {"POST": ["meters.change_fleetgroup"]}

    @extend_schema(
        operation_id="group_members",
        parameters=[_NUMBER],
        request=MembersChangeSerializer,
        responses=MembersChangedSerializer,
    )
    def post(self, request: Request, number: int) -> Response:
        """Put meters, places and concentrators into the group, or take them out: all of them, or none; audited."""
        group = self.get_object()
        body = MembersChangeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        put, take = (self._members(body.validated_data.get(act), act) for act in ("put", "take"))
        if (put.places or take.places) and not may_see_places(request.user):
            raise PermissionDenied("You may not see places.")
        done = groups.put_and_take(group, put, take, web_actor(request))
        return Response({"put": done[0]._asdict(), "take": done[1]._asdict()})

    def _members(self, said: dict[str, list[str]] | None, act: str) -> Members:
        """Return members by their ids; ValidationError names those that do not exist."""
        looks = {
            "meters": group_import.meter_ids,
            "places": group_import.place_ids,
            "concentrators": group_import.concentrator_ids,
        }
        ids: dict[str, list[int]] = {}
        for what, look in looks.items():
            written = (said or {}).get(what, [])
            found = look(written) if written else {}
            if missing := [text for text in written if text not in found]:
                raise ValidationError({act: {what: [f"there is no {what[:-1]} {text}" for text in missing[:20]]}})
            ids[what] = sorted({found[text] for text in written})
        return Members(**ids)
