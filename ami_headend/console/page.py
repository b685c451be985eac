"""The base of every page of the console; docs/console.md says how to make one."""

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.auth.mixins import PermissionRequiredMixin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.views.generic import TemplateView


class ConsolePage(PermissionRequiredMixin, TemplateView):
    """A page of the admin site. If it has a live part, htmx fetches that part from the same address again and again.

    ``route`` and ``name`` are its address (``admin:<name>``). ``permission_required`` lists all permissions that it
    needs; an empty tuple admits everybody who may sign in. ``template_name`` extends console/base.html;
    ``live_template_name`` is the part that refreshes every ``live_every_s`` seconds. ``back`` is the list that the page
    belongs to: the name of its address, and its title.
    """

    route: ClassVar[str]
    name: ClassVar[str]
    title: ClassVar[str]
    icon: ClassVar[str] = "article"
    permission_required: tuple[str, ...] = ()
    template_name = "console/base.html"
    live_template_name: ClassVar[str | None] = None
    live_every_s: ClassVar[int] = 5
    back: ClassVar[tuple[str, str] | None] = None

    @property
    def is_live_request(self) -> bool:
        """Whether htmx requests only the live part."""
        return self.live_template_name is not None and "HX-Request" in self.request.headers

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = super().dispatch(request, *args, **kwargs)
        if isinstance(response, HttpResponse):
            add_never_cache_headers(response)
            patch_vary_headers(response, ["HX-Request"])
        return response

    def get_template_names(self) -> list[str]:
        return ["console/live.html"] if self.is_live_request else super().get_template_names()

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add ``now``, the page itself as ``page``, and for a whole page the context of unfold's layout."""
        self.request.current_app = admin.site.name
        context = {"now": timezone.now(), "page": self, **kwargs}
        if not self.is_live_request:
            context = {**admin.site.each_context(self.request), "title": self.title, **context}
        return super().get_context_data(**context)
