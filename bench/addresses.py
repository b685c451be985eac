"""The addresses to time: every list, detail, search and API page, with ids that exist."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urlencode

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts.models import Alert
from bench.million import RARE
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.models import Concentrator, IntegrityFailure, IntervalTotal, RotationWave, Uplink
from meters.models import Meter, Place

_GROUPS = ("district:North", "route:R1")  # of a tenth of all meters, and of a hundred


class Address(NamedTuple):
    """An address, and the kind under which it is reported."""

    kind: str
    path: str


def every() -> list[Address]:
    """Return all addresses."""
    found = [*_console(), *_admin(), *_searches(), *_api()]
    return list(dict.fromkeys(found))


def _with(path: str, **query: object) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _meters() -> list[Meter]:
    """Return meters that sent for a month, for the last day, fell silent, never sent, and are retired."""
    last = Meter.objects.latest("pk").pk
    step = last // 2
    near = step - step % 1000
    ids = [near + 2, near + 15, near + 101, near + 209, near + 503]
    return list(Meter.objects.filter(pk__in=[min(number, last) for number in ids]))


def _lists(meters: Sequence[Meter], concentrator: Concentrator) -> dict[str, list[Mapping[str, object]]]:
    """Return the list pages of the console, each with the filters to measure."""
    return {
        "index": [{}],
        "meters": [
            {},
            *({"health": health} for health in ("heard", "silent", "never")),
            *({"status": status} for status in ("commissioned", "suspended", "retired")),
            *({"concentrator": concentrator.name, "health": health} for health in ("", "silent", "never")),
            {"search": meters[0].serial_number},
            {"search": meters[0].serial_number[-5:]},
            {"search": "Pump"},
            {"search": "nowhere at all"},
            {"after": meters[0].serial_number},
            *({"group": group} for group in _GROUPS),
            {"group": _GROUPS[0], "health": "silent"},
        ],
        "concentrators": [{}, {"search": "9"}, {"state": "inactive"}],
        "failures": [
            {},
            *({"kind": kind.value} for kind in FailureKind),
            *({"severity": severity.name.lower()} for severity in Severity),
            *({"state": state} for state in ("open", "acknowledged")),
            {"concentrator": concentrator.name},
            {"concentrator": concentrator.name, "kind": "too_old"},
            {"meter": meters[0].serial_number},
            {"group": _GROUPS[0]},
            {"uplink": Uplink.objects.latest("pk").pk},
        ],
        "failure-groups": [
            {},
            {"kind": "tag_invalid"},
            {"kind": "too_old"},
            {"severity": "critical"},
            *({"state": state} for state in ("open", "acknowledged")),
            {"concentrator": concentrator.name},
            {"concentrator": concentrator.name, "kind": "replayed"},
            {"meter": meters[0].serial_number},
        ],
        "events": [{}, *({"group": group} for group in _GROUPS)],
        "outages": [{}, {"group": _GROUPS[0]}],
        "past-outages": [
            {},
            {"rows": "meters"},
            *({"group": group, "rows": rows} for group in _GROUPS for rows in ("", "meters")),
        ],
        "places": [{}, {"search": "nothing has this name"}, {"search": "MP-00001234"}],
        "alerts": [
            {},
            {"state": "ended"},
            {"group": _GROUPS[0]},
            {"state": "ended", "group": _GROUPS[0]},
            {"search": meters[0].serial_number},
        ],
        "keys": [{}],
        "master-key": [{}],
        "waves": [{}],
        "wave-new": [{}],
        "audit": [{}],
        "approvals": [{}],
        "sign-in": [{}],
    }


def _console() -> Iterator[Address]:
    meters, concentrator = _meters(), Concentrator.objects.order_by("-pk")[0]
    for name, queries in _lists(meters, concentrator).items():
        for query in queries:
            yield Address("console", _with(reverse(f"admin:{name}"), **query))
    for meter in meters:
        for period in ("day", "week", "month"):
            yield Address("console", _with(reverse("admin:meter", args=[meter.pk]), period=period))
        yield Address("console", reverse("admin:meter-gaps-export", args=[meter.pk]))
    yield Address("console", reverse("admin:concentrator", args=[concentrator.pk]))
    yield Address("console", reverse("admin:failure", args=[IntegrityFailure.objects.latest("pk").pk]))
    for alert in Alert.objects.order_by("pk")[:1]:
        yield Address("console", reverse("admin:alert", args=[alert.pk]))
    for wave in RotationWave.objects.order_by("pk")[:1]:
        yield Address("console", reverse("admin:wave", args=[wave.pk]))
    for page in ("readings", "interval_totals", "failure_tallies"):
        yield Address("console", reverse(f"admin:{page}"))
        start = timezone.now() - timedelta(days=2)
        yield Address("console", _with(reverse(f"admin:{page}"), start=f"{start:%Y-%m-%dT%H:%M}"))
    yield Address("console", _with(reverse("admin:interval_totals"), concentrator=concentrator.name))
    yield Address("console", _with(reverse("admin:failure_tallies"), concentrator=concentrator.name))
    yield Address("console", _with(reverse("admin:readings"), meter=meters[0].serial_number))
    for group in _GROUPS:
        yield Address("console", _with(reverse("admin:readings"), group=group))
        yield Address("console", _with(reverse("admin:keyvault_devicekey_changelist"), group=group))
        yield Address("console", _with(reverse("admin:meters_meter_changelist"), group=group))


def _admin() -> Iterator[Address]:
    """Yield Django's own pages: each list, sorted by each sortable column, searched; and its newest row."""
    for model in sorted(filter(admin.site.is_registered, apps.get_models()), key=lambda one: one._meta.label):
        pages = admin.site.get_model_admin(model)
        name = model._meta.label_lower.replace(".", "_")
        path = reverse(f"admin:{name}_changelist")
        yield Address("admin", path)
        for number, column in enumerate(pages.list_display, _first_column(pages)):
            if _sorts(model, pages, str(column)):
                yield Address("admin", _with(path, o=number))
                yield Address("admin", _with(path, o=f"-{number}"))
        if pages.search_fields:
            yield Address("search", _with(path, q="EMH1000"))
            yield Address("search", _with(path, q="nothing has this name"))
        newest = model._default_manager.order_by("-pk").first()  # noqa: SLF001 - as the admin does
        if newest is not None:
            yield Address("admin", reverse(f"admin:{name}_change", args=[quote(newest.pk)]))


def _first_column(pages: admin.ModelAdmin) -> int:  # type: ignore[type-arg]
    """Return the number of a list's first column; boxes to choose rows for an action come before it as number 0."""
    request = HttpRequest()
    request.user = User(is_superuser=True)
    return 1 if pages.get_actions(request) else 0


def _sorts(model: type[Model], pages: admin.ModelAdmin, column: str) -> bool:  # type: ignore[type-arg]
    """Whether the list can be sorted by a column, as Django's list decides."""
    if column not in pages.get_sortable_by(HttpRequest()):
        return False
    if any(field.name == column for field in model._meta.get_fields()):
        return True
    return getattr(getattr(pages, column, None), "admin_order_field", None) is not None


def _searches() -> Iterator[Address]:
    path = reverse("admin:search")
    meter = _meters()[0]
    place = Place.objects.get(pk=meter.pk)
    terms = [
        meter.serial_number,
        meter.serial_number.lower(),
        meter.serial_number[-5:],
        meter.serial_number[:6],
        bytes(meter.system_title).hex(),
        place.name,
        place.address,
        " ".join(place.address.split()[:2]),
        "Norton",
        "DCU-0001",
        "pump 100",
        "nothing has this name",
    ]
    for term in terms:
        yield Address("search", _with(path, s=term, extended=1))


def _api() -> Iterator[Address]:
    meters, concentrator = _meters(), Concentrator.objects.order_by("-pk")[0]
    title = bytes(meters[0].system_title).hex()
    newest = IntervalTotal.objects.latest("interval_start").interval_start
    hour = {"from": newest.isoformat(), "to": (newest + timedelta(hours=1)).isoformat()}
    month = {"from": (newest - timedelta(days=30)).isoformat(), "to": newest.isoformat()}
    api = "/api/v1"
    for path in (
        f"{api}/meters",
        _with(f"{api}/meters", search=meters[0].serial_number[-5:]),
        _with(f"{api}/meters", search="nothing has this name"),
        _with(f"{api}/meters", concentrator=concentrator.name),
        _with(f"{api}/meters", status="suspended"),
        f"{api}/meters/{title}",
        _with(f"{api}/meters/{title}/gaps", **month),
        f"{api}/meters/{title}/commands",
        _with(f"{api}/readings", **hour),
        _with(f"{api}/readings", meter=title, **month),
        _with(f"{api}/readings", register=RARE, **month),
        _with(f"{api}/events", **month),
        _with(f"{api}/events", register="0-0:96.11.1", **month),
        _with(f"{api}/events", meter=title, **month),
        _with(f"{api}/totals", **hour),
        _with(f"{api}/totals", **month),
        _with(f"{api}/totals", register="1-0:2.29.0", **month),
        _with(f"{api}/totals", concentrator=concentrator.name, **month),
        f"{api}/rotations",
        f"{api}/outages",
        f"{api}/outages/groups",
        f"{api}/outages/past",
        f"{api}/outages/meters",
        *(
            _with(f"{api}/{name}", group=_GROUPS[0])
            for name in ("meters", "keys", "events", "alerts", "outages/meters")
        ),
        *(_with(f"{api}/readings", group=group, **hour) for group in _GROUPS),
    ):
        yield Address("API", path)
