"""Enrolment: the head-end's agreement keys, the authorities that vouch for meters, and meters that may enrol."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from ami_headend import cached_answers
from ami_headend.console.acts import REFUSALS
from ami_headend.console.failures import SEE, failures_url, groups_table
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, clipped, kind_label, label, link, thousands, wrapped
from ami_headend.console.keys import questions
from ami_headend.console.keys.questions import AgreementRow
from ami_headend.console.lists import TitlesField, choice, sentence
from ami_headend.console.page import ConsolePage
from ami_headend.core.text import counted
from ami_headend.web.tables import Column, HtmlTable, table
from concentrators.failures import queries
from concentrators.failures.kinds import ENROLMENT
from concentrators.failures.queries import FailureSelection
from concentrators.models import FailureGroup
from keyvault import rights
from keyvault.audit.chain import web_actor
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.enrolment import authorities
from keyvault.enrolment.certificates import kid_text
from keyvault.enrolment.inventory import SOON, AuthorityRow, AwaitedRow, CertificateRow, EnrolmentStanding
from keyvault.models import AgreementState, DeviceKey, KeyState
from keyvault.schemes.table import SchemeError, new_scheme_choices
from meters.models import Meter

_MOST = 1_000
_SAMPLE = 10
_STATE_COLOURS = {AgreementState.ACTIVE: "success", AgreementState.REPLACED: "", AgreementState.CUT_OFF: "danger"}


class EnrolmentPage(ConsolePage):
    """Agreement keys with the meters of each version, pinned authorities, meters that may enrol, what was refused."""

    route = "keys/enrolment/"
    name = "enrolment"
    title = "Enrolment"
    icon = "handshake"
    permission_required = (rights.SEE_KEYS,)
    template_name = "console/keys/enrolment.html"
    live_template_name = "console/keys/enrolment_live.html"
    live_every_s = 10

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        now = context["now"]
        answers = cached_answers.answers([questions.AGREEMENT, questions.ENROLMENT], now)
        versions: list[AgreementRow] = answers[questions.AGREEMENT.name].found
        found: EnrolmentStanding = answers[questions.ENROLMENT.name].found
        see_failures = self.request.user.has_perm(SEE)
        context |= {
            "figures": _figures(versions, found),
            "agreement": _agreement(versions, now),
            "authorities": _authorities(found.authorities, now, may_unpin=self.request.user.has_perm(rights.PROVISION)),
            "awaited": _awaited(found.longest, now, see_failures=see_failures),
            "more_awaited": max(0, found.awaited - len(found.longest)),
            "expiring": _expiring(found.first, now),
            "soon": SOON.days,
        }
        if see_failures:
            rows, _ = queries.failure_groups(FailureSelection(kinds=sorted(ENROLMENT)), questions.LISTED)
            context["refused"] = groups_table(rows, now)
        if self.request.user.has_perm("meters.view_meter"):
            context["awaited_url"] = f"{reverse('admin:meters')}?health=enrolling"
        if self.request.user.has_perm(rights.PROVISION):
            context["allow_url"] = reverse("admin:enrolment-allow")
        return context


class AllowForm(forms.Form):
    """The meters that may enrol, and the scheme of the key that they get."""

    titles = TitlesField(
        _MOST,
        rows=4,
        label="System titles",
        help_text=f"16 hex digits each, separated by spaces or lines; up to {_MOST:,} registered meters",
    )
    scheme = choice("scheme of the key to come", new_scheme_choices(), every="as it is; ccm for a new meter")


class _Meant(NamedTuple):
    """The meters that would be let enrol: a sample of them by name, and how many have keys already."""

    meters: int
    sample: list[str]
    again: int


class AllowEnrolmentPage(ConsolePage):
    """Asks for meters (``titles`` in the address fills them in), says what would come of it, and lets them enrol."""

    route = "keys/enrolment/allow/"
    name = "enrolment-allow"
    title = "Let meters enrol"
    icon = "handshake"
    back = ("admin:enrolment", "Enrolment")
    permission_required = (rights.SEE_KEYS, rights.PROVISION)
    template_name = "console/keys/enrolment_allow.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form = kwargs.pop("form", None) or AllowForm(initial={"titles": self.request.GET.get("titles", "")})
        return super().get_context_data(form=form, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Say what it would mean; do it once that is confirmed."""
        form = AllowForm(request.POST)
        meant = _meant(form) if form.is_valid() else None
        if meant is None or request.POST.get("act") != "allow":
            return self.render_to_response(self.get_context_data(form=form, meant=meant))
        titles, scheme = form.cleaned_data["titles"], form.cleaned_data["scheme"] or None
        try:
            allowed = authorities.allow(titles, web_actor(request), timezone.now(), scheme)
        except (ProvisioningError, SchemeError) as error:
            form.add_error("scheme", sentence(error))
        except REFUSALS as error:
            messages.error(request, f"Nothing was done: {error}.")
        else:
            cached_answers.forget(questions.ENROLMENT)
            count, kinds = (
                allowed.total(),
                ", ".join(f"{number:,} as {name}" for name, number in sorted(allowed.items())),
            )
            messages.success(request, f"{count:,} meter{'s' * (count != 1)} may enrol, once each: {kinds}.")
            return HttpResponseRedirect(reverse("admin:enrolment"))
        return self.render_to_response(self.get_context_data(form=form, meant=meant))


def allow_url(*titles: bytes) -> str:
    """Return the address of the page that lets meters enrol, with these filled in."""
    return f"{reverse('admin:enrolment-allow')}?{urlencode({'titles': ' '.join(title.hex() for title in titles)})}"


def _meant(form: AllowForm) -> _Meant | None:
    """Find the meters; None, and an error at the field, if one is not registered."""
    titles = form.cleaned_data["titles"]
    names = dict(Meter.objects.filter(system_title__in=titles).values_list("system_title", "serial_number"))
    known = {bytes(title): name for title, name in names.items()}
    if unknown := [title.hex() for title in titles if title not in known]:
        more = " and others" if len(unknown) > _SAMPLE else ""
        form.add_error("titles", f"No meter is registered under {', '.join(unknown[:_SAMPLE])}{more}.")
        return None
    again = DeviceKey.objects.filter(system_title__in=titles, epoch__gt=0, state=KeyState.ACTIVE).count()
    return _Meant(len(titles), sorted(known.values())[:_SAMPLE], again)


def _figures(versions: Sequence[AgreementRow], found: EnrolmentStanding) -> list[Figure]:
    active = sum(row.state == AgreementState.ACTIVE for row in versions)
    on_old = sum(row.meters for row in versions if row.state != AgreementState.ACTIVE)
    pinned = sum(row.unpinned_at is None for row in found.authorities)
    note = (
        f"{counted(on_old, 'meter still uses', 'meters still use')} an older version"
        if on_old
        else "one version of each is active"
    )
    return [
        Figure(
            "Agreement keys", thousands(active), note if versions else "none yet", "key", "", "unsure" * bool(on_old)
        ),
        Figure("Pinned authorities", thousands(pinned), "vouch for keys of meters", "verified"),
        Figure("May enrol", thousands(found.awaited), "meters awaiting enrolment", "hourglass_top"),
        Figure("Enrolled by certificate", thousands(found.enrolled), "meters, so far", "how_to_reg"),
    ]


def _agreement(versions: Sequence[AgreementRow], now: datetime) -> HtmlTable:
    columns = [
        Column("agreement key"),
        Column("state"),
        Column("meters", is_number=True),
        Column("usable keys", is_number=True, is_minor=True),
        Column("made", is_minor=True),
        Column("public key (X25519)", is_minor=True),
    ]
    return table(
        columns,
        [
            [
                f"{row.name} version {row.version}",
                _agreement_state(row),
                thousands(row.meters),
                thousands(row.usable),
                ago(row.created_at, now),
                _key(row.public),
            ]
            for row in versions
        ],
    )


def _agreement_state(row: AgreementRow) -> SafeString:
    state = AgreementState(row.state)
    is_in_use = state == AgreementState.REPLACED and row.meters
    return label(state.label.lower(), "warning" if is_in_use else _STATE_COLOURS[state], _since(row))


def _since(row: AgreementRow) -> str:
    at = row.cut_off_at or row.replaced_at
    return "" if at is None else f"since {timezone.localtime(at):%Y-%m-%d %H:%M}"


def _authorities(rows: Sequence[AuthorityRow], now: datetime, *, may_unpin: bool) -> HtmlTable:
    columns = [
        Column("authority"),
        Column("until"),
        Column("enrolled", is_number=True),
        Column("revoked", is_number=True, is_minor=True),
        Column("kid", is_minor=True),
        Column("pinned", is_minor=True),
        Column("public key (Ed25519)", is_minor=True),
        *([Column("act")] if may_unpin else []),
    ]
    return table(
        columns,
        [
            [
                clipped(row.issuer),
                _end(row.expires_at, now) if row.unpinned_at is None else _unpinned(row.unpinned_at),
                thousands(row.enrolled),
                thousands(row.revoked),
                clipped(kid_text(row.kid)),
                ago(row.pinned_at, now),
                _key(row.public),
                *([_unpin_link(row)] if may_unpin else []),
            ]
            for row in rows
        ],
    )


def _unpinned(at: datetime) -> SafeString:
    return label("unpinned", "danger", f"since {timezone.localtime(at):%Y-%m-%d %H:%M}")


def _unpin_link(row: AuthorityRow) -> Any:
    if row.unpinned_at is not None:
        return NOTHING
    return link(reverse("admin:authority-unpin", args=[row.kid.hex()]), "unpin …")


def _end(at: datetime | None, now: datetime) -> Any:
    """Return an end, marked if it has come or will come soon."""
    if at is None:
        return "no end"
    day = f"{timezone.localtime(at):%Y-%m-%d}"
    if at <= now:
        return label("expired", "danger", day)
    return label(day, "warning") if at - now < SOON else day


def _awaited(rows: Sequence[AwaitedRow], now: datetime, *, see_failures: bool) -> HtmlTable:
    meters = {bytes(one.system_title): one for one in Meter.objects.filter(system_title__in=[r[0] for r in rows])}
    last = _last_refusals(list(meters.values())) if see_failures else {}
    columns = [Column("meter"), Column("allowed"), Column("for", is_minor=True), Column("scheme", is_minor=True)]
    columns += [Column("last refusal")] if see_failures else []
    lines = []
    for row in rows:
        meter = meters.get(row.system_title)
        line = [
            row.system_title.hex() if meter is None else link(reverse("admin:meter", args=[meter.pk]), meter),
            ago(row.allowed_at, now),
            f"epoch {row.epoch + 1}" if row.epoch else "its first keys",
            row.scheme,
        ]
        lines.append(line + ([_refusal(last.get(meter.pk) if meter else None, meter)] if see_failures else []))
    return table(columns, lines)


def _last_refusals(meters: Sequence[Meter]) -> Mapping[int, FailureGroup]:
    """Return the kind of frames that was refused last, by meter."""
    groups = FailureGroup.objects.filter(meter__in=meters).order_by("last_at")
    return {group.meter_id: group for group in groups if group.meter_id is not None}


def _refusal(group: FailureGroup | None, meter: Meter | None) -> Any:
    if group is None or meter is None:
        return NOTHING
    return link(failures_url(kind=group.kind, meter=meter.serial_number), kind_label(group.kind))


def _expiring(rows: Sequence[CertificateRow], now: datetime) -> HtmlTable:
    columns = [
        Column("meter"),
        Column("expires"),
        Column("authority"),
        Column("enrolled", is_minor=True),
        Column("certificate", is_minor=True),
    ]
    named = Meter.objects.filter(system_title__in=[row.system_title for row in rows])
    meters = {bytes(one.system_title): one for one in named}
    return table(
        columns,
        [
            [
                link(reverse("admin:meter", args=[meters[row.system_title].pk]), meters[row.system_title])
                if row.system_title in meters
                else row.system_title.hex(),
                _end(row.expires_at, now),
                clipped(row.issuer),
                ago(row.enrolled_at, now),
                row.cti.hex(),
            ]
            for row in rows
        ],
    )


def _key(public: bytes) -> SafeString:
    """Return a public key in groups that a line may be broken between."""
    digits = public.hex()
    return wrapped(" ".join(digits[at : at + 16] for at in range(0, len(digits), 16)))
