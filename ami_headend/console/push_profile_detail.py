"""The page of a registered push profile: what it says, what it reads of its sample, and its end."""

import json
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.functional import cached_property

from ami_headend.console.acts import REFUSALS
from ami_headend.console.lists import sentence
from ami_headend.console.page import ConsolePage
from ami_headend.console.push_profiles import REGISTER, SEE_PROFILES, PushProfilesPage, manufacturer
from ami_headend.web.tables import HtmlTable, columns_of, table
from keyvault.audit.chain import web_actor
from meters.models import PushProfile
from meters.readings import push_profiles
from meters.readings.push.definition import ProfileError


class PushProfilePage(ConsolePage):
    """A version of a profile; whoever may register profiles can retire it."""

    route = "push-profiles/<int:pk>/"
    name = "push-profile"
    title = "Push profile"
    icon = "view_column"
    back = ("admin:push-profiles", PushProfilesPage.title)
    permission_required = (SEE_PROFILES,)
    template_name = "console/push_profiles/profile.html"

    @cached_property
    def profile(self) -> PushProfile:
        return get_object_or_404(PushProfile, pk=self.kwargs["pk"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        profile = self.profile
        context = super().get_context_data(**kwargs)
        context |= {
            "profile": profile,
            "title": f"Push profile {profile}",
            "meters": manufacturer(bytes(profile.title_prefix)),
            "form": bytes(profile.skeleton_sha256).hex()[:16],
            "definition": json.dumps(profile.definition, indent=2, ensure_ascii=False),
            "may_retire": profile.retired_at is None and self.request.user.has_perm(REGISTER),
        }
        try:
            context["reads"] = _registers(profile)
        except ProfileError as error:
            context["wrong"] = sentence(error)
        return context

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Retire the version."""
        if not request.user.has_perm(REGISTER):
            raise PermissionDenied
        try:
            push_profiles.retire(self.profile.name, self.profile.version, web_actor(request))
        except (ProfileError, *REFUSALS) as error:
            messages.error(request, f"Nothing was done: {sentence(error)}")
        else:
            messages.success(request, f"Retired {self.profile}. Its frames are read by another profile, or wait.")
        return HttpResponseRedirect(reverse("admin:push-profile", args=[self.profile.pk]))


def _registers(profile: PushProfile) -> HtmlTable:
    """The registers that the profile reads from its sample; ProfileError if it reads it no more."""
    values = push_profiles.check(profile.definition, bytes(profile.sample), bytes(profile.sample_title)).values
    columns = columns_of("register", "#power of ten", "unit")
    return table(columns, [[value.obis, str(value.scaler), " or ".join(value.units)] for value in values])
