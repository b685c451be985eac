"""Serializers of the API: input and output."""

import base64
import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.validators import ProhibitNullCharactersValidator
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import exceptions, serializers

from keyvault.schemes.table import scheme_choices
from meters.codes.event_codes import CodeKey, parse_key
from meters.codes.severity import Severity
from meters.group_models import FleetGroup
from meters.models import Meter, MeterStatus, Register
from meters.readings.obis import LOAD_PROFILE, RegisterKind
from meters.registry import groups
from meters.registry.groups import NAMED_MAX, GroupError, OtherGroupError, of_meters
from meters.registry.lookup import RegistryError, parse_system_title

DEFAULT_PERIOD = timedelta(days=7)
PAGE_DEFAULT, PAGE_MAX = 1_000, 10_000
SELECTION_MAX = 100  # meters or registers named in one request


class SystemTitleField(serializers.CharField):
    """A system title in 16 hex digits; 8 octets internally."""

    def to_internal_value(self, data: Any) -> bytes:  # type: ignore[override]
        try:
            return parse_system_title(super().to_internal_value(data))
        except RegistryError as error:
            raise serializers.ValidationError(str(error)) from None

    def to_representation(self, value: Any) -> str:
        return bytes(value).hex()


class OctetsField(serializers.CharField):
    """Octets in hex digits."""

    def to_internal_value(self, data: Any) -> bytes:  # type: ignore[override]
        try:
            return bytes.fromhex(super().to_internal_value(data))
        except ValueError:
            raise serializers.ValidationError("octets in hex digits") from None

    def to_representation(self, value: Any) -> str:
        return bytes(value).hex()


class NamedField(serializers.SlugRelatedField[Any]):
    """A row by its name; a name that no column can hold (with a NUL) matches none."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str):
            ProhibitNullCharactersValidator()(data)
        return super().to_internal_value(data)


class GroupsField(serializers.ListField):
    """Groups by name: ``district:North``, or the word of a tag. Rows of any of them are meant."""

    child = serializers.CharField(max_length=161)

    def __init__(self, **options: Any) -> None:
        options.setdefault("help_text", "in any of these groups now (kind:name, or a tag); may be repeated")
        super().__init__(max_length=NAMED_MAX, **options)

    def to_internal_value(self, data: Any) -> list[FleetGroup]:
        try:
            return groups.find(super().to_internal_value(data), self.context.get("group_ids"))
        except OtherGroupError as error:
            raise exceptions.PermissionDenied(f"The token does not open this: {error}.") from None
        except GroupError as error:
            raise serializers.ValidationError(str(error)) from None


@extend_schema_field(str)
class CursorField(serializers.Field[Any, str, str, Any]):
    """The end of the previous page: the times and numbers of its key, opaque to the client."""

    def to_internal_value(self, data: str) -> tuple[Any, ...]:
        try:
            at_us, *ids = json.loads(base64.urlsafe_b64decode(data.encode("ascii")))
            if any(type(number) is not int or not 0 <= number < 2**63 for number in ids):
                raise ValueError
            return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us), *ids)
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise serializers.ValidationError("not a cursor of this head-end: follow `next` unchanged") from None

    def to_representation(self, value: tuple[Any, ...]) -> str:
        at, *ids = value
        key = [(at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1), *ids]
        return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode()


class QuerySerializer(serializers.Serializer[Any]):
    """Query parameters. Unknown or empty ones are refused, so that a typing error does not select everything."""

    def to_internal_value(self, data: Any) -> Any:
        wrong: dict[str, Any] = {}
        for name, text in sorted(data.items()):
            if name not in self.fields and name != "format":
                wrong[name] = [f"no such parameter; known are {', '.join(self.fields)}"]
            elif not text:  # DRF treats it as not given
                wrong[name] = ["empty: leave it out, or give it a value"]
        try:
            attrs = super().to_internal_value(data)
        except serializers.ValidationError as error:
            found = error.detail if isinstance(error.detail, dict) else {"non_field_errors": error.detail}
            raise serializers.ValidationError({**wrong, **found, **wrong}) from None
        if wrong:
            raise serializers.ValidationError(wrong)
        return attrs


class PageSizeQuery(QuerySerializer):
    page_size = serializers.IntegerField(default=100, min_value=1, max_value=PAGE_MAX)


class NumberedPageQuery(PageSizeQuery):
    """A page of rows in order of their numbers."""

    cursor = serializers.IntegerField(
        default=0, min_value=0, max_value=2**63 - 1, help_text="from `next` of the previous page"
    )


class PeriodQuery(QuerySerializer):
    """A period [from, to); by default `to` is now, and `from` seven days earlier."""

    to = serializers.DateTimeField(required=False, help_text="end, exclusive (ISO 8601); default: now")

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        # "from" is a keyword of Python and cannot be declared.
        start = serializers.DateTimeField(required=False, help_text="start (ISO 8601); default: 7 days before `to`")
        return {"from": start, **fields}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        attrs.setdefault("to", timezone.now())
        try:
            attrs.setdefault("from", attrs["to"] - DEFAULT_PERIOD)
        except OverflowError:
            raise serializers.ValidationError({"to": ["too early"]}) from None
        if attrs["from"] >= attrs["to"]:
            raise serializers.ValidationError({"from": ["must be before `to`"]})
        return attrs


class PageQuery(PeriodQuery):
    """Registers by name, a period, and a page."""

    register = serializers.ListField(
        child=serializers.CharField(max_length=24),
        required=False,
        max_length=SELECTION_MAX,
        help_text="OBIS code; may be repeated",
    )
    page_size = serializers.IntegerField(
        default=PAGE_DEFAULT, min_value=1, max_value=PAGE_MAX, help_text="for JSON; CSV and Parquet are complete"
    )
    cursor = CursorField(required=False, help_text="from `next` of the previous page")

    cursor_ids = 2  # how many numbers follow the time in a cursor

    def validate_cursor(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(value) != 1 + self.cursor_ids:
            raise serializers.ValidationError("a cursor of another list: follow `next` unchanged")
        return value

    def validate_register(self, codes: list[str]) -> list[int]:
        found = dict(Register.objects.filter(obis_code__in=codes).values_list("obis_code", "pk"))
        for code in codes:
            if code not in found:
                raise serializers.ValidationError(f"there is no register {code!r}")
        return list(found.values())


class SelectionQuery(PageQuery):
    """Meters by system title, with registers, a period, and a page."""

    meter = serializers.ListField(
        child=SystemTitleField(), required=False, max_length=SELECTION_MAX, help_text="system title; may be repeated"
    )

    group = GroupsField(required=False, help_text="of meters in any of these groups now; may be repeated")

    def validate_meter(self, titles: list[bytes]) -> list[int]:
        rows, limit = Meter.objects.filter(system_title__in=titles), self.context.get("group_ids")
        if limit is not None:
            rows = rows.filter(of_meters(limit, "pk"))
        found = {bytes(title): pk for pk, title in rows.values_list("pk", "system_title")}
        for title in titles:
            if title not in found:
                raise serializers.ValidationError(f"there is no meter with system title {title.hex()}")
        return list(found.values())


class EventsQuery(SelectionQuery):
    """Events, also by what their codes mean."""

    severity = serializers.ChoiceField(
        [one.label for one in Severity], required=False, help_text="this severity or a worse one"
    )
    code = serializers.ListField(
        child=serializers.CharField(max_length=40),
        required=False,
        max_length=SELECTION_MAX,
        help_text="log and code, such as 0-0:96.11.0/1; may be repeated",
    )
    is_acknowledged = serializers.BooleanField(required=False, default=None, allow_null=True)
    cursor_ids = 1

    def validate_code(self, texts: list[str]) -> list[CodeKey]:
        try:
            return [parse_key(text) for text in texts]
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None

    def validate_severity(self, text: str) -> Severity:
        return Severity[text.upper()]


class GapsQuery(PeriodQuery):
    register = serializers.CharField(default=LOAD_PROFILE, max_length=24, help_text="OBIS code of an interval register")

    def validate_register(self, code: str) -> Register:
        register = Register.objects.filter(obis_code=code).first()
        if register is None:
            raise serializers.ValidationError(f"there is no register {code!r}")
        if register.kind != RegisterKind.INTERVAL:
            raise serializers.ValidationError(f"{code} is not an interval register, so it has no gaps")
        return register


class MetersQuery(QuerySerializer):
    search = serializers.CharField(
        required=False,
        max_length=120,
        help_text="the beginning or the end of a serial number, words of a name, or the system title",
    )
    status = serializers.ChoiceField(choices=MeterStatus.choices, required=False)
    scheme = serializers.ChoiceField(scheme_choices(), required=False, help_text="by which they are protected now")
    group = GroupsField(required=False)
    page_size = serializers.IntegerField(default=100, min_value=1, max_value=PAGE_MAX)
    cursor = serializers.CharField(required=False, max_length=64, help_text="from `next` of the previous page")


class PlaceField(serializers.CharField):
    """The place of a meter; left out unless ``meters.api.meters`` sets it, because not everybody may see places."""

    def get_attribute(self, instance: Any) -> Any:
        if not hasattr(instance, "place_name"):
            raise serializers.SkipField
        return instance.place_name


class MeterSerializer(serializers.ModelSerializer[Meter]):
    system_title = SystemTitleField()
    interval_minutes = serializers.IntegerField(source="length_minutes", help_text="present interval length")
    scheme = serializers.CharField(
        source="scheme_in_use", allow_null=True, help_text="by which its readings are protected now; null without a key"
    )
    place = PlaceField(
        source="place_name",
        required=False,
        allow_null=True,
        help_text="its present place; left out for users who may not see places",
    )

    class Meta:
        model = Meter
        fields = (
            "system_title",
            "serial_number",
            "name",
            "place",
            "status",
            "interval_minutes",
            "scheme",
            "mask_group",
            "commissioned_at",
            "retired_at",
        )


class ReadingSerializer(serializers.Serializer[Any]):
    """A reading; `quantity` = `value` x 10^`scaler` `unit`, exactly."""

    system_title = serializers.CharField()
    obis_code = serializers.CharField()
    captured_at = serializers.DateTimeField(help_text="for interval registers the interval's start")
    interval_minutes = serializers.IntegerField(help_text="0 except for interval registers")
    value = serializers.IntegerField(help_text="64 bits, in the register's resolution")
    scaler = serializers.IntegerField()
    unit = serializers.CharField()
    quantity = serializers.CharField(help_text="decimal, exact")
    uplink = serializers.IntegerField(help_text="number of its uplink")
    scheme = serializers.CharField(help_text="the scheme that protected it")
    caveat = serializers.CharField(
        help_text="what end-to-end protection it lacks, as `carried in clear`; empty if nothing"
    )


class EventSerializer(serializers.Serializer[Any]):
    """An event that a meter reported about itself, and what its code means (docs/events.md)."""

    id = serializers.IntegerField()
    system_title = serializers.CharField()
    serial_number = serializers.CharField()
    obis_code = serializers.CharField()
    captured_at = serializers.DateTimeField()
    received_at = serializers.DateTimeField()
    value = serializers.IntegerField(help_text="the code")
    name = serializers.CharField(help_text="what the code means")
    severity = serializers.ChoiceField([one.label for one in Severity])
    type = serializers.CharField(help_text="EndDeviceEventType (IEC 61968-9)")
    is_acknowledged = serializers.BooleanField()
    uplink = serializers.IntegerField()
    scheme = serializers.CharField(help_text="the scheme that protected it")
    caveat = serializers.CharField(
        allow_blank=True, help_text="what end-to-end protection it lacked: carried in clear, for one; else empty"
    )


class GapSerializer(serializers.Serializer[Any]):
    """A run of missing intervals [from, to)."""

    to = serializers.DateTimeField(source="end")
    intervals = serializers.IntegerField()
    interval_minutes = serializers.IntegerField(help_text="the meter's length at that time")

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.DateTimeField(source="start"), **super().get_fields()}


class GapReportSerializer(serializers.Serializer[Any]):
    interval_minutes = serializers.IntegerField(help_text="the meter's present length")
    expected = serializers.IntegerField(help_text="intervals")
    missing = serializers.IntegerField(help_text="intervals")
    completeness = serializers.FloatField(allow_null=True, help_text="0 to 1; null if none is expected")
    gaps = GapSerializer(many=True)


def ids_of(rows: Collection[Any] | None) -> list[int] | None:
    """Return the ids of rows; None for None."""
    return None if rows is None else [row.pk for row in rows]


def given(asked: Mapping[str, Any], **lookups: str) -> dict[str, Any]:
    """Return look-ups from the parameters of those names, without parameters that were not given."""
    return {lookup: asked[name] for lookup, name in lookups.items() if name in asked}


def page_of(name: str, child: type[serializers.Serializer[Any]]) -> Any:
    """Return the schema of a page of a list."""
    fields: Mapping[str, Any] = {
        "next": serializers.URLField(allow_null=True, help_text="the next page; null at the end"),
        "results": child(many=True),
    }
    return type(name, (serializers.Serializer,), dict(fields))
