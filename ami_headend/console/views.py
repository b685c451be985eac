"""Saved views of list pages: where they are saved, shared and deleted (``lists.py`` shows and opens them)."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from ami_headend import saved_views
from ami_headend.console import model_lists
from ami_headend.console.lists import LISTS
from ami_headend.console.page import ConsolePage
from ami_headend.core.numbers import row_number
from ami_headend.models import SavedView
from ami_headend.saved_views import SHARE, ViewError
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError


class SavedViewsPage(ConsolePage):
    """Where list pages send what is to be done with views; it shows nothing itself."""

    route = "saved-views/"
    name = "saved-views"
    title = "Saved views"
    http_method_names = ["post", "options"]

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Save, share or delete a view, and go back to the list."""
        name = request.POST.get("page", "")
        path = _path(request, name)
        if path is None:
            raise PermissionDenied
        acts = {"save": _save, "share": _share, "delete": _delete}
        act = acts.get(request.POST.get("act", ""))
        if act is None:
            raise PermissionDenied
        query = request.POST.get("query", "")
        try:
            messages.success(request, act(request, name))
        except ViewError as error:
            messages.error(request, f"Nothing was saved: {error}.")
        except (AuditError, MasterKeyError):
            messages.error(request, "Nothing was shared: it cannot be audited while the master key cannot be used.")
        return HttpResponseRedirect(f"{path}?{query}" if query else path)


def _path(request: HttpRequest, name: str) -> str | None:
    """Return the address of a list that the user may see: a page, or a list of the admin."""
    page = LISTS.get(name)
    if page is None:
        return model_lists.address(request, name)
    return reverse(f"admin:{name}") if request.user.has_perms(page.permission_required) else None


def _save(request: HttpRequest, page: str) -> str:
    view = saved_views.save(request.user, page, request.POST.get("name", ""), request.POST.get("query", ""))
    return f"View {view} is saved."


def _delete(request: HttpRequest, page: str) -> str:
    view = _view(request, page)
    if view.owner_id != request.user.pk and not request.user.has_perm(SHARE):
        raise PermissionDenied
    view.delete()
    return f"View {view} is deleted."


def _share(request: HttpRequest, page: str) -> str:
    if not request.user.has_perm(SHARE):
        raise PermissionDenied
    view, name = _view(request, page), request.POST.get("role", "")
    role = Group.objects.filter(name=name).first()
    if name and role is None:
        raise Http404
    saved_views.share(view, role, web_actor(request))
    return f"View {view} is shared with the role {role}." if role else f"View {view} is shared with nobody now."


def _view(request: HttpRequest, page: str) -> SavedView:
    number = row_number(request.POST.get("view", ""))
    view = saved_views.of_page(request.user, page).filter(pk=number or 0).first()
    if view is None:
        raise Http404
    return view
