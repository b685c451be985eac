"""The lists of integrity failures: a live list, groups by meter and kind, and CSV."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend import cached_answers
from ami_headend.console import list_exports
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, clipped, kind_label, label, link, thousands, wrapped
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ROWS, ListPage, MeterField, box, choice, chosen, number_of, page_key, time_of
from ami_headend.console.traffic_queries import OPEN_FAILURES
from ami_headend.core.text import NOTE_LENGTH, counted
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from concentrators import tasks
from concentrators.admin_forms import ConcentratorField
from concentrators.failures import queries
from concentrators.failures.acknowledgement import (
    Acknowledged,
    AcknowledgementError,
    acknowledge,
    take_back,
)
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.failures.queries import FailureGroupRow, FailureKey, FailureRow, FailureSelection
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError
from meters.group_forms import GroupsField, ids
from meters.models import Meter
from meters.readings.queries import batches
from meters.registry.lookup import RegistryError, parse_system_title

SEE = "concentrators.view_integrityfailure"
ACKNOWLEDGE = "concentrators.add_acknowledgement"
_STATES = {"open": True, "acknowledged": False}
_TONES = {Severity.CRITICAL: "bad", Severity.WARNING: "unsure", Severity.INFO: ""}
_ICONS = {Severity.CRITICAL: "gpp_bad", Severity.WARNING: "warning", Severity.INFO: "info"}
_NOT_QUEUED = "; the queue does not answer: acknowledge the others once it does"


class _ClaimedMeterField(MeterField):
    """A meter, or a system title that frames claim although no meter has it."""

    def unknown(self, written: str, error: RegistryError) -> Meter | bytes:
        try:
            return parse_system_title(written)
        except RegistryError:
            return super().unknown(written, error)


class FailureFilters(FilterForm):
    """Filters failures by kind, meter, concentrator, time and acknowledgement."""

    kind = choice("kind", [(kind.value, kind.label) for kind in FailureKind])
    severity = choice("severity", [(s.name.lower(), s.name.lower()) for s in sorted(Severity, reverse=True)])
    state = choice("state", [(state, state) for state in _STATES])
    meter = _ClaimedMeterField()
    concentrator = ConcentratorField()
    uplink = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=2**63 - 1,
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}),
    )
    group = GroupsField()
    field_order = ["kind", "severity", "state", "meter", "concentrator", "group", "uplink", "from", "to"]

    def selection(self) -> FailureSelection:
        """Return the selection of valid filters."""
        return selection_of(self.cleaned_data)

    def in_words(self) -> list[tuple[str, str]]:
        """Return label and text of each filter that is set."""
        return [(str(bound.label), str(bound.value())) for bound in self if bound.value() not in (None, "")]


def selection_of(given: dict[str, Any], after: FailureKey | None = None) -> FailureSelection:
    """Return the selection of valid filters, from a key on."""
    meter, concentrator = given.get("meter"), given.get("concentrator")
    return FailureSelection(
        kinds=[FailureKind(given["kind"])] if given.get("kind") else None,
        severity=Severity[given["severity"].upper()] if given.get("severity") else None,
        is_open=_STATES.get(given.get("state", "")),
        meter_id=meter.pk if isinstance(meter, Meter) else None,
        system_title=meter if isinstance(meter, bytes) else None,
        concentrator_id=None if concentrator is None else concentrator.pk,
        uplink_id=given.get("uplink"),
        group_ids=ids(given.get("group")),
        start=given.get("from"),
        end=given.get("to"),
        after=after,
    )


class AcknowledgeForm(forms.Form):
    """The note of an acknowledgement."""

    note = forms.CharField(
        max_length=NOTE_LENGTH,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "what it was, and what was done"}),
    )


def failures_url(**filters: Any) -> str:
    """Return the address of the list under filters, as the form writes them."""
    given = {name: value for name, value in filters.items() if value not in (None, "")}
    return f"{reverse('admin:failures')}?{urlencode(given)}" if given else reverse("admin:failures")


def failures_table(rows: Sequence[FailureRow], now: Any, *, choose: bool = False) -> HtmlTable:
    """Return failures as a table with links to their pages; ``choose`` adds boxes to choose some."""
    columns = columns_of("received", "kind", "meter", "-concentrator", "-reason", "-state")
    lines = [
        [
            ago(row.received_at, now),
            format_html('<a href="{}">{}</a>', reverse("admin:failure", args=[row.id]), kind_label(row.kind)),
            claimed(row),
            clipped(row.concentrator),
            wrapped(row.detail),
            label("open", "warning") if row.acknowledged_at is None else label(f"seen by {row.acknowledged_by}"),
        ]
        for row in rows
    ]
    if choose:
        columns.insert(0, Column(""))
        for row, line in zip(rows, lines, strict=True):
            what = f"choose {FailureKind(row.kind).label} of {row.meter or 'no known meter'}"
            line.insert(0, box("acknowledge", "failure", row.id, what) if row.acknowledged_at is None else "")
    return table(columns, lines)


def groups_table(rows: Sequence[FailureGroupRow], now: Any) -> HtmlTable:
    """Return failures by meter and kind as a table with links to their failures."""
    columns = columns_of("kind", "meter", "-concentrator", "#failures", "-#open", "-first", "last")
    lines = [
        [
            kind_label(row.kind),
            "no known meter" if row.meter is None else clipped(row.meter),
            clipped(row.concentrator) if row.concentrator else counted(row.concentrators, "concentrator"),
            link(
                failures_url(kind=row.kind, meter=row.meter, concentrator=None if row.meter else row.concentrator),
                thousands(row.failures),
            ),
            thousands(row.open),
            ago(row.first_at, now),
            ago(row.last_at, now),
        ]
        for row in rows
    ]
    return table(columns, lines)


def claimed(row: FailureRow) -> SafeString | str:
    """Return the claimed sender of a frame: a meter, a system title without meter, or nothing readable."""
    if row.meter_id is not None:
        return clipped(row.meter)
    return (
        NOTHING if row.kid is None else format_html('<code class="console-clip" title="{0}">{0}</code>', row.kid[:16])
    )


def acknowledge_for(request: HttpRequest, selection: FailureSelection, note: str) -> Acknowledged | None:
    """Acknowledge as the request's user and show a message about the result; None if nothing was acknowledged."""
    with _or_message(request, "acknowledged"):
        done = acknowledge(selection, web_actor(request), note, timezone.now())
        cached_answers.forget(OPEN_FAILURES)
        said = f"{done.failures:,} failure{'s' * (done.failures != 1)} acknowledged"
        if not done.is_whole:
            queued = _enqueue(tasks.acknowledge_failures, done.id)
            said += "; the others follow in the background" if queued else _NOT_QUEUED
        way = link(reverse("admin:acknowledgement", args=[done.id]), "Look at it or take it back")
        messages.success(request, format_html("{}. {}", said, way))
        return done
    return None


def take_back_for(request: HttpRequest, number: int) -> None:
    """Take an acknowledgement back as the request's user and show a message about the result."""
    with _or_message(request, "taken back"):
        take_back(number, web_actor(request), timezone.now())
        cached_answers.forget(OPEN_FAILURES)
        open_again_for(request, number)


@contextmanager
def _or_message(request: HttpRequest, act: str) -> Iterator[None]:
    """Show a message that says why nothing was done if the domain refuses it."""
    try:
        yield
    except AcknowledgementError as error:
        messages.error(request, f"Nothing was {act}: {error}.")
    except (AuditError, MasterKeyError):
        messages.error(request, f"Nothing was {act}: it cannot be audited while the master key cannot be used.")


def open_again_for(request: HttpRequest, number: int) -> None:
    """Reopen the failures of a revoked acknowledgement in the background."""
    if _enqueue(tasks.reopen_failures, number):
        messages.success(request, "Taken back: its failures are being opened again.")
    else:
        messages.warning(request, "Taken back, but the queue does not answer: open its failures once it does.")


def _enqueue(task: Any, number: int) -> bool:
    """Enqueue a task; return whether the queue took it."""
    try:
        task.apply_async((number,), retry=False)
    except task.OperationalError:
        return False
    return True


class FailuresPage(ListPage):
    """Failures, newest first; new ones appear by themselves. The chosen ones can be acknowledged here."""

    route = "failures/"
    name = "failures"
    title = "Integrity failures"
    icon = "gpp_maybe"
    permission_required = (SEE,)
    template_name = "console/failures/page.html"
    live_template_name = "console/failures/live.html"
    form_class = FailureFilters

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        rows, key = queries.failures(selection_of(filters, _key(after)), ROWS)
        return failures_table(rows, timezone.now(), choose=self.request.user.has_perm(ACKNOWLEDGE)), key

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = selection_of(filters)
        found = batches(queries.failures, selection, list_exports.BATCH)
        return ListExport(FailureRow, found, lambda most: queries.count(selection, most))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        return {
            **context,
            "figures": _figures(),
            "acknowledge": AcknowledgeForm() if self.request.user.has_perm(ACKNOWLEDGE) else None,
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Acknowledge the chosen failures."""
        if not request.user.has_perm(ACKNOWLEDGE):
            raise PermissionDenied
        ids = chosen(request, "failure")
        if ids:
            acknowledge_for(request, FailureSelection(ids=ids), request.POST.get("note", ""))
        else:
            messages.error(request, "Nothing was acknowledged: choose failures first.")
        return HttpResponseRedirect(request.get_full_path())


class FailureGroupsPage(ListPage):
    """One row for each meter and kind, the most recent first."""

    route = "failures/groups/"
    name = "failure-groups"
    title = "Integrity failures by meter and kind"
    icon = "gpp_maybe"
    permission_required = (SEE,)
    template_name = "console/failures/groups.html"
    live_template_name = "console/failures/groups_live.html"
    form_class = FailureFilters

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        rows, key = queries.failure_groups(selection_of(filters, _key(after)), ROWS)
        return groups_table(rows, timezone.now()), key

    def exported(self, filters: dict[str, Any]) -> ListExport:
        selection = selection_of(filters)
        found = batches(queries.failure_groups, selection, list_exports.BATCH)
        return ListExport(FailureGroupRow, found, lambda most: queries.count_groups(selection, most))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_context_data(**kwargs), "figures": _figures()}


def _key(after: list[str] | None) -> FailureKey | None:
    if after is None:
        return None
    with page_key():
        at, number = after
        return FailureKey(time_of(at), number_of(number))


def _figures() -> list[Figure]:
    found = cached_answers.answers([OPEN_FAILURES], timezone.now())[OPEN_FAILURES.name].found
    return [
        Figure(
            f"Open, {severity.name.lower()}",
            thousands(count),
            "stored failures that nobody has acknowledged",
            _ICONS[severity],
            failures_url(severity=severity.name.lower(), state="open"),
            _TONES[severity] if count else "good",
        )
        for severity, count in ((Severity(row.severity), row.open) for row in found)
    ]
