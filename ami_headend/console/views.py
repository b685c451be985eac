"""The status page and the part of it that renews itself."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from ami_headend.console import panels


@never_cache
@admin.site.admin_view
def status(request: HttpRequest) -> HttpResponse:
    """The whole page."""
    context = {"title": "Status", **admin.site.each_context(request), **panels.status(request.user, timezone.now())}
    return render(request, "console/status.html", context)


@never_cache
@admin.site.admin_view
def live(request: HttpRequest) -> HttpResponse:
    """The figures, lists and chart data alone, fetched again and again by the page."""
    return render(request, "console/live.html", panels.status(request.user, timezone.now()))
