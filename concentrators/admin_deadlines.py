"""Deadlines of readings in the admin: made and changed, each act audited; never deleted, as history refers to them."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.web.admin import LargeTableAdmin
from concentrators.models import ReadDeadline
from concentrators.totals import read_success
from keyvault.audit.chain import AuditError, web_actor
from keyvault.master_key import MasterKeyError


@admin.register(ReadDeadline)
class ReadDeadlineAdmin(LargeTableAdmin):
    """By when the readings of a day are due."""

    when_empty = "There is no deadline, so nothing says whether readings came in time. Add one."
    fields = ["name", "due_time", "days_after", "zone", "target_percent", "is_active"]
    list_display = ["name", "due", "zone", "target", "is_active"]
    search_fields = ["name__icontains"]
    ordering = ["name"]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Return the form field; of the time without Django's hint to the server's zone: the deadline has its own."""
        if db_field.name == "due_time":
            options["widget"] = UnfoldAdminTextInputWidget(attrs={"type": "time"})
            return db_field.formfield(**options)
        return super().formfield_for_dbfield(db_field, request, **options)

    @display(description="due")
    def due(self, deadline: ReadDeadline) -> str:
        days = "the day after" if deadline.days_after == 1 else f"{deadline.days_after} days after"
        return f"{deadline.due_time:%H:%M}, {days}"

    @display(description="target", ordering="target_percent")
    def target(self, deadline: ReadDeadline) -> str:
        return f"{deadline.target_percent.normalize():f} %"

    def has_delete_permission(self, request: HttpRequest, obj: ReadDeadline | None = None) -> bool:
        return False  # it is set inactive

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)  # type: ignore[no-any-return]
        except (MasterKeyError, AuditError) as error:
            self.message_user(request, f"Nothing was saved: {error}", messages.ERROR)
            return HttpResponseRedirect(request.path)

    def save_model(self, request: HttpRequest, obj: ReadDeadline, form: Any, change: bool) -> None:
        read_success.save(web_actor(request), obj)
