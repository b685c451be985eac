"""The sidebar, with the pages that a user may see."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.urls import reverse

from ami_headend.console.alerts import AlertsPage
from ami_headend.console.api_tokens import ApiTokensPage
from ami_headend.console.codes import CodesPage
from ami_headend.console.concentrators import ConcentratorsPage
from ami_headend.console.deadlines import DeadlinesPage
from ami_headend.console.events import EventsPage
from ami_headend.console.failures import FailuresPage
from ami_headend.console.groups import GroupsPage
from ami_headend.console.keys.approvals import ApprovalsPage
from ami_headend.console.keys.audit import AuditPage
from ami_headend.console.keys.enrolment import EnrolmentPage
from ami_headend.console.keys.keys import KeysPage
from ami_headend.console.keys.mask_authorities import MaskAuthoritiesPage
from ami_headend.console.keys.master_key import MasterKeyPage
from ami_headend.console.keys.waves import WavesPage
from ami_headend.console.masked_totals import MaskedTotalsPage
from ami_headend.console.meters import MetersPage
from ami_headend.console.outages import OutagesPage
from ami_headend.console.overview import OverviewPage
from ami_headend.console.page import ConsolePage
from ami_headend.console.places import PlacesPage
from ami_headend.console.push_profiles import PushProfilesPage
from ami_headend.console.records import ReadingsPage, TalliesPage, TotalsPage
from ami_headend.console.register_differences import RegisterDifferencesPage
from ami_headend.console.schemes import SchemesPage
from ami_headend.console.signatures import SignaturesPage
from ami_headend.console.subscriptions import SubscriptionsPage


class _Page(NamedTuple):
    title: str
    icon: str
    url_name: str
    permissions: Sequence[str] = ()
    lists: Sequence[str] = ()  # admin lists below this page that have no link of their own in the sidebar


def _console_page(page: type[ConsolePage], *lists: str) -> _Page:
    return _Page(page.title, page.icon, f"admin:{page.name}", page.permission_required, lists)


def _model_page(title: str, icon: str, model: str) -> _Page:
    """The list of a model, as ``app.model``, for those who may see its rows."""
    app, name = model.split(".")
    return _Page(title, icon, f"admin:{app}_{name}_changelist", [f"{app}.view_{name}"])


GROUPS = [
    (None, [_console_page(OverviewPage), _console_page(AlertsPage)]),
    (
        "Traffic",
        [
            _model_page("Uplinks", "upload", "concentrators.uplink"),
            _console_page(FailuresPage),
            _console_page(TalliesPage),
            _console_page(TotalsPage),
            _console_page(MaskedTotalsPage),
            _console_page(DeadlinesPage),
            _model_page("Terms of deadlines", "event_available", "concentrators.readdeadline"),
            _console_page(SubscriptionsPage, "admin:concentrators_feeddelivery_changelist"),
        ],
    ),
    (
        "Meters",
        [
            _console_page(MetersPage),
            _console_page(ReadingsPage),
            _console_page(RegisterDifferencesPage),
            _console_page(SignaturesPage),
            _console_page(EventsPage, "admin:meters_meterevent_changelist"),
            _console_page(OutagesPage),
            _console_page(PlacesPage, "admin:meters_place_changelist"),
            _console_page(GroupsPage),
            _model_page("Installations", "build", "meters.installation"),
            _model_page("Previous interval lengths", "timelapse", "meters.earlierlength"),
            _model_page("Registers", "list_alt", "meters.register"),
            _console_page(PushProfilesPage),
            _console_page(CodesPage),
        ],
    ),
    (
        "Concentrators",
        [
            _console_page(ConcentratorsPage),
            _model_page("Assignments", "lan", "concentrators.assignment"),
            _model_page("Commands", "send", "concentrators.command"),
            _model_page("Limits of commands", "speed", "concentrators.commandlimit"),
        ],
    ),
    (
        "Keys",
        [
            _console_page(KeysPage),
            _console_page(EnrolmentPage),
            _console_page(MaskAuthoritiesPage),
            _console_page(MasterKeyPage, "admin:keyvault_masterkeyrotation_changelist"),
            _console_page(WavesPage, "admin:concentrators_rotationwave_changelist"),
            _console_page(ApprovalsPage),
            _console_page(AuditPage, "admin:keyvault_auditrecord_changelist"),
            _model_page("Keys one by one", "list_alt", "keyvault.devicekey"),
            _model_page("Fleet keys", "key", "keyvault.fleetkey"),
            _model_page("Invocation counters", "tag", "keyvault.invocationcounter"),
            _model_page("Command counters", "pin", "keyvault.downlinkcounter"),
            _model_page("Bad tags", "gpp_bad", "keyvault.tagfailures"),
            _console_page(SchemesPage),
        ],
    ),
    (
        "Alerting",
        [
            _model_page("Rules", "rule", "alerts.rule"),
            _model_page("Channels", "forward_to_inbox", "alerts.channel"),
            _model_page("Messages", "outbox", "alerts.delivery"),
        ],
    ),
    (
        "Accounts",
        [
            _model_page("Users", "person", "auth.user"),
            _model_page("Groups", "group", "auth.group"),
            _console_page(ApiTokensPage),
            _model_page("Sign-ins", "login", "signin.signin"),
            _model_page("Household data seen", "visibility", "meters.householdaccess"),
            _Page("API", "api", "docs"),
        ],
    ),
]


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Return unfold's navigation for the request's user; groups without a page are left out."""
    allowed = [
        (title, [(page, reverse(page.url_name)) for page in pages if _may_see(page, request)])
        for title, pages in GROUPS
    ]
    ways = [(way, link) for _, pages in allowed for page, link in pages for way in (link, *map(reverse, page.lists))]
    within = [pair for pair in ways if _is_within(request.path, pair[0])]
    here = max(within, key=lambda pair: len(pair[0]), default=("", ""))[1]
    return [
        {"title": title, "separator": bool(title), "items": [_item(page, link, here) for page, link in pages]}
        for title, pages in allowed
        if pages
    ]


def _is_within(path: str, link: str) -> bool:
    """Whether a page lies below the link; only the index itself lies below the index."""
    return path.startswith(link) and (path == link or link != reverse("admin:index"))


def _may_see(page: _Page, request: HttpRequest) -> bool:
    return request.user.has_perms(page.permissions)


def _item(page: _Page, link: str, here: str) -> dict[str, Any]:
    return {"title": page.title, "icon": page.icon, "link": link, "active": lambda request: link == here}
