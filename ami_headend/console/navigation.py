"""The sidebar, with the pages that a user may see."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.urls import reverse

from ami_headend.console.alerts import AlertsPage
from ami_headend.console.concentrators import ConcentratorsPage
from ami_headend.console.failures import FailuresPage
from ami_headend.console.keys.approvals import ApprovalsPage
from ami_headend.console.keys.audit import AuditPage
from ami_headend.console.keys.keys import KeysPage
from ami_headend.console.keys.master_key import MasterKeyPage
from ami_headend.console.keys.waves import WavesPage
from ami_headend.console.meters import MetersPage
from ami_headend.console.overview import OverviewPage
from ami_headend.console.page import ConsolePage
from ami_headend.console.places import PlacesPage
from ami_headend.console.records import ReadingsPage, TalliesPage, TotalsPage


class _Page(NamedTuple):
    title: str
    icon: str
    url_name: str
    permissions: Sequence[str] = ()
    lists: Sequence[str] = ()  # admin lists below this page that have no link of their own in the sidebar


def _console_page(page: type[ConsolePage], *lists: str) -> _Page:
    return _Page(page.title, page.icon, f"admin:{page.name}", page.permission_required, lists)


GROUPS = [
    (None, [_console_page(OverviewPage), _console_page(AlertsPage)]),
    (
        "Traffic",
        [
            _Page("Uplinks", "upload", "admin:concentrators_uplink_changelist", ["concentrators.view_uplink"]),
            _console_page(FailuresPage),
            _console_page(TalliesPage),
            _console_page(TotalsPage),
        ],
    ),
    (
        "Meters",
        [
            _console_page(MetersPage),
            _console_page(ReadingsPage),
            _Page("Events", "notifications", "admin:meters_meterevent_changelist", ["meters.view_meterevent"]),
            _console_page(PlacesPage, "admin:meters_place_changelist"),
            _Page("Installations", "build", "admin:meters_installation_changelist", ["meters.view_installation"]),
            _Page(
                "Previous interval lengths",
                "timelapse",
                "admin:meters_earlierlength_changelist",
                ["meters.view_earlierlength"],
            ),
            _Page("Registers", "list_alt", "admin:meters_register_changelist", ["meters.view_register"]),
        ],
    ),
    (
        "Concentrators",
        [
            _console_page(ConcentratorsPage),
            _Page("Assignments", "lan", "admin:concentrators_assignment_changelist", ["concentrators.view_assignment"]),
            _Page("Commands", "send", "admin:concentrators_command_changelist", ["concentrators.view_command"]),
        ],
    ),
    (
        "Keys",
        [
            _console_page(KeysPage),
            _console_page(MasterKeyPage, "admin:keyvault_masterkeyrotation_changelist"),
            _console_page(WavesPage, "admin:concentrators_rotationwave_changelist"),
            _console_page(ApprovalsPage),
            _console_page(AuditPage, "admin:keyvault_auditrecord_changelist"),
            _Page("Keys one by one", "list_alt", "admin:keyvault_devicekey_changelist", ["keyvault.view_devicekey"]),
            _Page("Fleet keys", "key", "admin:keyvault_fleetkey_changelist", ["keyvault.view_fleetkey"]),
            _Page(
                "Invocation counters",
                "tag",
                "admin:keyvault_invocationcounter_changelist",
                ["keyvault.view_invocationcounter"],
            ),
            _Page(
                "Command counters",
                "pin",
                "admin:keyvault_downlinkcounter_changelist",
                ["keyvault.view_downlinkcounter"],
            ),
            _Page("Bad tags", "gpp_bad", "admin:keyvault_tagfailures_changelist", ["keyvault.view_tagfailures"]),
        ],
    ),
    (
        "Alerting",
        [
            _Page("Rules", "rule", "admin:alerts_rule_changelist", ["alerts.view_rule"]),
            _Page("Channels", "forward_to_inbox", "admin:alerts_channel_changelist", ["alerts.view_channel"]),
            _Page("Messages", "outbox", "admin:alerts_delivery_changelist", ["alerts.view_delivery"]),
        ],
    ),
    (
        "Accounts",
        [
            _Page("Users", "person", "admin:auth_user_changelist", ["auth.view_user"]),
            _Page("Groups", "group", "admin:auth_group_changelist", ["auth.view_group"]),
            _Page("Sign-ins", "login", "admin:signin_signin_changelist", ["signin.view_signin"]),
            _Page(
                "Household data seen",
                "visibility",
                "admin:meters_householdaccess_changelist",
                ["meters.view_householdaccess"],
            ),
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
    return path == link or (link != reverse("admin:index") and path.startswith(link))


def _may_see(page: _Page, request: HttpRequest) -> bool:
    return request.user.has_perms(page.permissions)


def _item(page: _Page, link: str, here: str) -> dict[str, Any]:
    return {"title": page.title, "icon": page.icon, "link": link, "active": lambda request: link == here}
