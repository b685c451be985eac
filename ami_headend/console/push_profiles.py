"""Push profiles: forms of DLMS notifications that wait for one, and the profiles that are registered."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.urls import reverse

from ami_headend.console.failures import SEE, failures_url
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, clipped, label, link, thousands
from ami_headend.console.load_profile import READ_READINGS
from ami_headend.console.page import ConsolePage
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.failures.kinds import FailureKind
from concentrators.failures.waiting_forms import LOOKED_AT, WaitingForm, waiting_forms
from concentrators.models import Reverification
from meters.models import PushProfile

SEE_PROFILES = "meters.view_pushprofile"
REGISTER = "meters.add_pushprofile"
_LISTED = 200


class PushProfilesPage(ConsolePage):
    """What waits for a profile, by form and manufacturer, and the newest profiles."""

    route = "push-profiles/"
    name = "push-profiles"
    title = "Push profiles"
    icon = "view_column"
    permission_required = (SEE_PROFILES, SEE)
    template_name = "console/push_profiles/page.html"
    live_template_name = "console/push_profiles/live.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        now, waiting = context["now"], waiting_forms()
        profiles = list(PushProfile.objects.defer("sample", "definition", "skeleton").order_by("-pk")[:_LISTED])
        judged_again = Reverification.objects.filter(cause="profile").exists()
        frames = sum(one.frames for one in waiting)
        more = " or more" if frames >= LOOKED_AT else ""
        note = (
            "frames are being judged again now"
            if judged_again
            else f"in {thousands(len(waiting))} form{'s' * (len(waiting) != 1)}"
        )
        shown, tone = f"{thousands(frames)}{more}", "unsure" if frames else ""
        return {
            **context,
            "figures": [
                Figure("Frames that wait", shown, note, "hourglass_top", "", tone),
                Figure("Profiles", thousands(sum(one.retired_at is None for one in profiles)), "in use", "view_column"),
            ],
            "waiting": _waiting(waiting, now, may_register=self._may_register()),
            "waiting_url": failures_url(kind=FailureKind.UNKNOWN_PROFILE),
            "profiles": _profiles(profiles, waiting, now),
            "judged_again": judged_again,
        }

    def _may_register(self) -> bool:
        return self.request.user.has_perms([REGISTER, READ_READINGS])


def _waiting(rows: Sequence[WaitingForm], now: datetime, *, may_register: bool) -> HtmlTable:
    columns = columns_of("manufacturer", "-form", "#frames", "-#meters", "-since", "latest", *["act"] * may_register)
    lines = []
    for one in rows:
        line = [
            manufacturer(one.manufacturer),
            one.form.hex(),
            thousands(one.frames),
            thousands(one.meters),
            ago(one.first_at, now),
            ago(one.last_at, now),
        ]
        if may_register:
            line.append(link(reverse("admin:push-profile-new", args=[one.failure_id]), "say what it is …"))
        lines.append(line)
    return table(columns, lines)


def _profiles(rows: Sequence[PushProfile], waiting: Sequence[WaitingForm], now: datetime) -> HtmlTable:
    columns = columns_of("profile", "#version", "-titles begin with", "-form", "state", "#still waiting", "-registered")
    return table(
        columns,
        [
            [
                link(reverse("admin:push-profile", args=[one.pk]), clipped(one.name)),
                str(one.version),
                manufacturer(bytes(one.title_prefix)),
                bytes(one.skeleton_sha256).hex()[:16],
                label("in use", "success") if one.retired_at is None else label("retired"),
                _still(one, waiting),
                ago(one.created_at, now),
            ]
            for one in rows
        ],
    )


def _still(profile: PushProfile, waiting: Sequence[WaitingForm]) -> str:
    """How many frames of a profile's form and manufacturer wait yet: none, once they were judged again."""
    form, maker = bytes(profile.skeleton_sha256)[:8], bytes(profile.title_prefix)[:3]
    frames = sum(one.frames for one in waiting if (one.form, one.manufacturer) == (form, maker))
    return thousands(frames) if frames else NOTHING


def manufacturer(title: bytes) -> str:
    """Write the beginning of system titles (3 octets or more), with its letters where the manufacturer has some."""
    letters = title[:3].decode("ascii", "replace")
    return f"{letters} ({title.hex()})" if letters.isascii() and letters.isalnum() else title.hex()
