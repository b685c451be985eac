"""Import of a table of meters on a page: it is checked as a whole, and imported whole or not at all."""

import tempfile
from pathlib import Path
from typing import Any

from django import forms
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminSelectWidget, UnfoldBooleanSwitchWidget

from ami_headend.console.lists import agreement_key_field
from ami_headend.console.page import ConsolePage
from ami_headend.core.csv_tables import BadLine, FileError
from ami_headend.core.text import counted
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.fleet.first_keys import KeyPolicy
from concentrators.fleet.meter_import import REFUSALS, MeterImportReport, import_file
from keyvault import rights
from keyvault.audit.chain import web_actor
from keyvault.models import FleetKey
from meters.admin_forms import LATER_KEYS, RANDOM_KEYS
from meters.registry.meter_file import OPTIONAL, REQUIRED

_LINES_MAX = 20_000  # more would outlast a request: manage.py import_meters takes any number
_OCTETS_MAX = 10_000_000  # unpacked
_BAD_SHOWN = 50


class ImportForm(forms.Form):
    """The table, the source of keys for new meters, and whether registered meters may change."""

    file = forms.FileField(
        label="Table",
        help_text="CSV, plain or gzip, as spreadsheets write it; the first line names the columns",
        widget=UnfoldAdminFileFieldWidget,
    )
    keys = forms.ChoiceField(
        label="Keys of new meters",
        help_text='of those alone for which the table has neither a public key nor "by certificate"',
        widget=UnfoldAdminSelectWidget,
    )
    agreement_key = agreement_key_field("Agreement key of new meters")
    update = forms.BooleanField(
        required=False,
        label="Change registered meters that differ",
        help_text="otherwise such a line is refused",
        widget=UnfoldBooleanSwitchWidget(),
    )

    def __init__(self, *args: Any, may_provision: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(LATER_KEYS, "none now: a shipment will bring them")]
        if may_provision:
            choices.insert(0, (RANDOM_KEYS, "random, made here"))
            fleet_keys = FleetKey.objects.defer("wrapped").order_by("name")
            choices += [(str(row.pk), f"derived from fleet key {row.name}") for row in fleet_keys]
        field = self.fields["keys"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 - for the types alone
        field.choices = choices

    def policy(self) -> KeyPolicy:
        """Return the key policy of a valid form."""
        chosen = self.cleaned_data["keys"]
        agreement_key = self.cleaned_data["agreement_key"]
        if chosen in (LATER_KEYS, RANDOM_KEYS):
            return KeyPolicy(make=chosen == RANDOM_KEYS, agreement_key=agreement_key)
        return KeyPolicy(fleet_key=FleetKey.objects.get(pk=chosen), agreement_key=agreement_key)


class MeterImportPage(ConsolePage):
    """A table of meters: its changes, its errors, and the import."""

    route = "meters/import/"
    name = "meter-import"
    title = "Import meters"
    icon = "upload_file"
    back = ("admin:meters", "All meters")
    permission_required = (
        "meters.add_meter",
        "meters.change_meter",
        "meters.add_place",
        "concentrators.add_assignment",
    )
    template_name = "console/meters/import.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form = kwargs.pop("form", None) or self._form()
        return super().get_context_data(form=form, required=REQUIRED, optional=OPTIONAL, most=_LINES_MAX, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Check or import the table. If any line is wrong, all wrong lines are shown and nothing is imported."""
        form = self._form(request.POST, request.FILES)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(form=form))
        dry_run = request.POST.get("act") != "import"
        try:
            report = _import(request, form, dry_run=dry_run)
        except REFUSALS as error:
            form.add_error("file", f"{error}. Nothing was imported.")
            return self.render_to_response(self.get_context_data(form=form))
        except IntegrityError:
            form.add_error("file", "The registry changed meanwhile. Nothing was imported: try again.")
            return self.render_to_response(self.get_context_data(form=form))
        if dry_run or report.bad:
            return self.render_to_response(self.get_context_data(form=form, report=report, bad=_bad(report.bad)))
        messages.success(
            request,
            f"Imported: {report.new:,} new, {report.changed:,} changed, {report.unchanged:,} unchanged;"
            f" {report.assigned:,} assigned to a concentrator; {counted(report.keyed, 'given key')};"
            f" {report.awaited:,} may enrol by certificate.",
        )
        return HttpResponseRedirect(reverse("admin:meters"))

    def _form(self, *args: Any) -> ImportForm:
        return ImportForm(*args, may_provision=self.request.user.has_perm(rights.PROVISION))


def _import(request: HttpRequest, form: ImportForm, *, dry_run: bool) -> MeterImportReport:
    """Check or import the uploaded table; FileError if it is not a table or is too long for a page."""
    upload: UploadedFile[bytes] = form.cleaned_data["file"]
    with tempfile.NamedTemporaryFile(suffix=".csv") as copy:
        for part in upload.chunks():
            copy.write(part)
        copy.flush()
        try:
            return import_file(
                Path(copy.name),
                form.policy(),
                web_actor(request),
                timezone.now(),
                update=form.cleaned_data["update"],
                dry_run=dry_run,
                lines_max=_LINES_MAX,
                octets_max=_OCTETS_MAX,
            )
        except FileError as error:
            raise FileError(str(error).replace(copy.name, "the file")) from None


def _bad(lines: list[BadLine]) -> HtmlTable:
    columns = columns_of("#line", "what is wrong")
    return table(columns, [[line.line, line.reason] for line in lines[:_BAD_SHOWN]])
