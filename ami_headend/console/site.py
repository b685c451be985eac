"""The admin site as the console: its index is the overview, and it serves every page of PAGES."""

from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.functional import SimpleLazyObject
from django.views.decorators.cache import cache_control
from unfold.sites import UnfoldAdminSite

from ami_headend.console.acknowledgements import AcknowledgeAllPage, AcknowledgementPage
from ami_headend.console.alert_subjects import AlertSubjectsExport, AlertSubjectsPage
from ami_headend.console.alerts import AlertPage, AlertsPage
from ami_headend.console.api_tokens import ApiTokensPage
from ami_headend.console.codes import CodesPage
from ami_headend.console.concentrator import ConcentratorPage
from ami_headend.console.concentrators import ConcentratorsPage
from ami_headend.console.deadlines import DeadlinesPage
from ami_headend.console.events import EventsPage
from ami_headend.console.failure import FailurePage
from ami_headend.console.failure_numbers import FailureNumbersPage
from ami_headend.console.failures import FailureGroupsPage, FailuresPage
from ami_headend.console.group import GroupPage
from ami_headend.console.groups import GroupsPage
from ami_headend.console.keys.approvals import ApprovalsPage
from ami_headend.console.keys.audit import AuditExport, AuditPage
from ami_headend.console.keys.compromise import CompromisePage
from ami_headend.console.keys.enrolment import AllowEnrolmentPage, EnrolmentPage
from ami_headend.console.keys.keys import KeysPage
from ami_headend.console.keys.mask_authorities import MaskAuthoritiesPage
from ami_headend.console.keys.master_key import DestroyPage, MasterKeyPage
from ami_headend.console.keys.new_key import NewKeyPage
from ami_headend.console.keys.retire import RetireKeyPage
from ami_headend.console.keys.unpinning import UnpinPage
from ami_headend.console.keys.wave import WavePage
from ami_headend.console.keys.waves import NewWavePage, WavesPage
from ami_headend.console.masked_totals import MaskedTotalsPage
from ami_headend.console.meter import MeterGapsExport, MeterPage
from ami_headend.console.meter_import import MeterImportPage
from ami_headend.console.meters import MetersPage
from ami_headend.console.model_lists import ModelListPage
from ami_headend.console.outages import OutagePage, OutagesPage
from ami_headend.console.overview import OverviewPage
from ami_headend.console.page import ConsolePage
from ami_headend.console.past_outages import PastOutagesPage
from ami_headend.console.place import PlacePage
from ami_headend.console.places import PlacesPage
from ami_headend.console.push_profile import NewPushProfilePage
from ami_headend.console.push_profile_detail import PushProfilePage
from ami_headend.console.push_profiles import PushProfilesPage
from ami_headend.console.records import ReadingsPage, TalliesPage, TotalsPage
from ami_headend.console.register_differences import RegisterDifferencesPage
from ami_headend.console.schemes import SchemesPage
from ami_headend.console.signatures import SignaturesPage
from ami_headend.console.subscriptions import SubscriptionsPage
from ami_headend.console.views import SavedViewsPage
from ami_headend.signin.account import AccountPage
from ami_headend.signin.views import OwnPasswordView, SignInView

PAGES: list[type[ConsolePage]] = [
    AccountPage,
    FailuresPage,
    FailureGroupsPage,
    FailureNumbersPage,
    AcknowledgeAllPage,
    AcknowledgementPage,
    FailurePage,
    MetersPage,
    MeterImportPage,
    MeterPage,
    MeterGapsExport,
    PlacesPage,
    PlacePage,
    PushProfilesPage,
    SubscriptionsPage,
    NewPushProfilePage,
    PushProfilePage,
    ReadingsPage,
    RegisterDifferencesPage,
    SignaturesPage,
    EventsPage,
    OutagesPage,
    PastOutagesPage,
    OutagePage,
    CodesPage,
    TotalsPage,
    MaskedTotalsPage,
    DeadlinesPage,
    TalliesPage,
    ConcentratorsPage,
    ConcentratorPage,
    GroupsPage,
    GroupPage,
    SavedViewsPage,
    ModelListPage,
    AlertsPage,
    AlertPage,
    AlertSubjectsPage,
    AlertSubjectsExport,
    KeysPage,
    CompromisePage,
    EnrolmentPage,
    AllowEnrolmentPage,
    UnpinPage,
    MaskAuthoritiesPage,
    NewKeyPage,
    RetireKeyPage,
    MasterKeyPage,
    DestroyPage,
    WavesPage,
    NewWavePage,
    WavePage,
    AuditPage,
    AuditExport,
    ApprovalsPage,
    SchemesPage,
    ApiTokensPage,
]


class ConsoleSite(UnfoldAdminSite):  # type: ignore[misc]
    """Unfold's admin site with the console's pages."""

    def extra_urls(self) -> list[URLPattern]:
        """Add addresses before those of the models (unfold's hook)."""
        pages = [path(page.route, self.admin_view(page.as_view()), name=page.name) for page in PAGES]
        return [path("colours.css", self.colours, name="colours"), *pages]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return unfold's context, with the colours of the theme in a stylesheet instead of inside the page."""
        context: dict[str, Any] = super().each_context(request)
        context["styles"] = [reverse("admin:colours"), *context["styles"]]
        del context["colors"]
        return context

    @method_decorator(cache_control(public=True, max_age=3600))
    def colours(self, request: HttpRequest) -> HttpResponse:
        """Serve the colours of the theme (UNFOLD["COLORS"]) as variables."""
        lines = [
            f"--color-{name}-{weight}: {value};"
            for name, weights in self._get_colors("COLORS", request).items()
            for weight, value in weights.items()
        ]
        return HttpResponse(":root {" + " ".join(lines) + "}", content_type="text/css")

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> Any:
        """Return the models of one app, or of all apps once somebody looks at them: the sidebar is our own."""
        if app_label is not None:
            return super().get_app_list(request, app_label)
        return SimpleLazyObject(partial(super().get_app_list, request))

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
        return OverviewPage.as_view()(request)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
        request.current_app = self.name
        view = OwnPasswordView.as_view(
            template_name=self.password_change_template or "registration/password_change_form.html",
            success_url=reverse("admin:password_change_done"),
            extra_context={**self.each_context(request), **(extra_context or {})},
        )
        return view(request)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
        return SignInView.as_view()(request)
