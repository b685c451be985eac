"""The admin site as the console: its index is the overview, and every page of PAGES has an address in it."""

from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path
from unfold.sites import UnfoldAdminSite

from ami_headend.console.failure import FailurePage
from ami_headend.console.failures import FailureGroupsPage, FailuresExport, FailuresPage
from ami_headend.console.overview import OverviewPage
from ami_headend.console.page import ConsolePage

PAGES: list[type[ConsolePage]] = [FailuresPage, FailureGroupsPage, FailuresExport, FailurePage]


class ConsoleSite(UnfoldAdminSite):  # type: ignore[misc]
    """Unfold's admin site with the console's pages."""

    def extra_urls(self) -> list[URLPattern]:
        """Unfold's hook: addresses that come before those of the models."""
        return [path(page.route, self.admin_view(page.as_view()), name=page.name) for page in PAGES]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
        return OverviewPage.as_view()(request)
