"""Deadlines of readings in the admin: made, changed, and removed once they are inactive; each act is audited."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from ami_headend.core.text import counted
from ami_headend.web.admin import AuditedAdmin
from concentrators.models import ReadDay, ReadDeadline
from concentrators.totals import read_success
from concentrators.totals.read_success import DeadlineInUseError
from keyvault.audit.chain import web_actor


@admin.register(ReadDeadline)
class ReadDeadlineAdmin(AuditedAdmin):
    """By when the readings of a day are due."""

    when_empty = "There is no deadline, so nothing says whether readings came in time. Add one."
    fields = ["name", "due_time", "days_after", "zone", "target_percent", "is_active"]
    list_display = ["name", "due", "zone", "target", "is_active"]
    search_fields = ["name__icontains"]
    ordering = ["name"]
    refusals = (DeadlineInUseError,)

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
        return (obj is None or not obj.is_active) and super().has_delete_permission(request, obj)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Return what is deleted: the deadline and its history."""
        said = [
            f"{one}, with its history of {counted(ReadDay.objects.filter(deadline=one).count(), 'day')}" for one in objs
        ]
        return said, {}, set(), []

    def delete_model(self, request: HttpRequest, obj: ReadDeadline) -> None:
        read_success.remove(web_actor(request), obj)

    def save_model(self, request: HttpRequest, obj: ReadDeadline, form: Any, change: bool) -> None:
        read_success.save(web_actor(request), obj)
