"""Users and groups in the admin, with unfold's forms. Every change of rights is recorded in the audit chain."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from ami_headend.signin import lockout, secondfactor, sessions
from ami_headend.signin.models import Authenticator
from ami_headend.web.admin import LargeTableAdmin, form_page, shown
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError

admin.site.unregister(User)
admin.site.unregister(Group)


class _AuditedAdmin(LargeTableAdmin):
    """A model whose changes are recorded in the audit chain; if that fails, nothing is changed."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._recorded(request, super().changeform_view, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._recorded(request, super().delete_view, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._recorded(request, super().changelist_view, *args, **kwargs)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self._record(request, "delete", {"name": str(obj)})
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._record(request, "delete", {"names": sorted(str(obj) for obj in queryset)})
        super().delete_queryset(request, queryset)

    def _record(self, request: HttpRequest, act: str, subject: dict[str, Any]) -> None:
        chain.record(chain.web_actor(request), f"{self.opts.model_name}.{act}", subject)

    def _recorded(self, request: HttpRequest, view: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            with transaction.atomic():
                answer: HttpResponse = view(request, *args, **kwargs)
        except (AuditError, MasterKeyError) as error:
            self.message_user(request, f"Nothing was changed, because it could not be audited: {error}", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        return answer


class RoleFilter(DropdownFilter):  # type: ignore[misc]
    """Accounts with a given role, or with none."""

    title = "role"
    parameter_name = "role"
    _NONE = "none"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = Group.objects.order_by("name").values_list("pk", "name")
        return [(self._NONE, "no role"), *((str(pk), name) for pk, name in names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        chosen = self.value()
        if chosen == self._NONE:
            return queryset.filter(groups=None, is_superuser=False)
        known = {value for value, _ in self.lookup_choices}
        return queryset.filter(groups=chosen) if chosen in known else queryset


@admin.register(User)
class UserAdmin(DjangoUserAdmin, _AuditedAdmin):  # type: ignore[type-arg, misc]
    """Accounts of operators.

    An operator who is not a superuser cannot change superusers, cannot grant single permissions, and cannot change
    their own groups.
    """

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    filter_horizontal = ()  # screen readers cannot read Django's widget for it, and phones cannot show it
    list_display = ["username", "roles", "last_login", "second_factor", "is_staff", "is_active", "is_superuser"]
    list_filter = [RoleFilter, "is_active", "is_superuser"]
    search_fields = ["username__icontains", "first_name__icontains", "last_name__icontains", "email__icontains"]
    search_help_text = "a part of a name or an e-mail address"
    ordering = ["username"]
    actions_detail = ["end_sessions", "reset_second_factor", "unlock"]

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        fields = (*super().get_readonly_fields(request, obj), "last_login", "date_joined")
        if request.user.is_superuser:
            return fields
        return (*fields, "is_superuser", "user_permissions", *(("groups",) if obj == request.user else ()))

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        has_factor = Exists(Authenticator.objects.filter(user=OuterRef("pk"), confirmed=True))
        users: QuerySet[User] = super().get_queryset(request)
        return users.annotate(has_second_factor=has_factor).prefetch_related("groups")

    @display(description="roles", label=True)
    def roles(self, user: User) -> list[str] | str:
        names = sorted(group.name for group in user.groups.all())
        return names or ("superuser: all rights" if user.is_superuser else "no role")

    @display(description="second factor", boolean=True, ordering="has_second_factor")
    def second_factor(self, user: User) -> bool:
        return bool(user.has_second_factor)  # type: ignore[attr-defined]

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and self._is_within_reach(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and self._is_within_reach(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        within = queryset if request.user.is_superuser else queryset.filter(is_superuser=False)
        super().delete_queryset(request, within)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        user: User = form.instance
        rights = {
            "name": user.get_username(),
            "groups": sorted(user.groups.values_list("name", flat=True)),
            "permissions": user.user_permissions.count(),
            "superuser": user.is_superuser,
            "active": user.is_active and user.is_staff,
        }
        if change and "username" in form.changed_data:  # records before name the account by its old name
            rights["name_before"] = form.initial["username"]
        self._record(request, "change" if change else "add", rights)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        if self.get_object(request, unquote(id)) == request.user:
            # Whoever uses this session need not be its owner: that page asks for the current password.
            self.message_user(request, "Change your own password here.", messages.INFO)
            return HttpResponseRedirect(reverse("admin:password_change"))
        return self._recorded(request, self._change_password, id, form_url)

    def _change_password(self, request: HttpRequest, user_id: str, form_url: str) -> HttpResponse:
        answer = super().user_change_password(request, user_id, form_url)
        if request.method == "POST" and isinstance(answer, HttpResponseRedirect):
            self._record(request, "password", {"name": str(self.get_object(request, user_id))})
        return answer

    @action(description="Reset second factor", icon="phonelink_erase", permissions=["change"])
    def reset_second_factor(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if self._account(request, object_id) == request.user:
            self.message_user(request, "Change your own second factor here, with one of its codes.", messages.INFO)
            return HttpResponseRedirect(reverse("admin:sign-in"))

        def reset(user: User) -> str:
            removed = secondfactor.remove(user, chain.web_actor(request))
            return "The second factor was removed." if removed else "There was no second factor."

        text = (
            "For someone who has lost both phone and recovery codes: be sure who asks. Their sessions end. Until they "
            "set up another one, at the next sign-in if the account needs it, the password alone is enough."
        )
        return self._act(request, object_id, reset, "Reset second factor", text, ActionVariant.DANGER.value)

    @action(description="Unlock sign-in", icon="lock_open", permissions=["change"])
    def unlock(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def unlock(user: User) -> str:
            self._record(request, "unlock", {"name": user.get_username()})
            return "Unlocked." if lockout.unlock(user.get_username()) else "The account was not locked."

        text = "After failed attempts an account is locked for the address they came from. This unlocks it everywhere."
        return self._act(request, object_id, unlock, "Unlock sign-in", text, "primary")

    @action(description="Sessions", icon="devices", permissions=["change"])
    def end_sessions(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def end(user: User) -> str:
            ended = sessions.end(user, [row.session_key for row in sessions.of_account(user)])
            self._record(request, "end_sessions", {"name": user.get_username(), "sessions": ended})
            return f"{ended} session{'s' * (ended != 1)} ended."

        user = self._account(request, object_id)
        rows = [
            f"{row.browser or 'an unknown program'}, from {row.address or 'an unknown address'}, "
            f"since {shown(row.began_at)}, used {shown(row.used_at)}"
            for row in sessions.of_account(user)
        ]
        text = "All sessions below are ended. Signing in again needs the password and the second factor."
        text = format_html("<p>{}</p><ul>{}</ul>", text, format_html_join("", "<li>{}</li>", ((row,) for row in rows)))
        return self._act(
            request,
            object_id,
            end,
            "End the sessions",
            text if rows else "Nobody is signed in to this account.",
            ActionVariant.DANGER.value,
        )

    def _act(
        self, request: HttpRequest, object_id: str, act: Any, title: str, text: str, submit_variant: str
    ) -> HttpResponse:
        user = self._account(request, object_id)
        back = reverse("admin:auth_user_change", args=[user.pk])
        if request.method == "POST":
            try:
                with transaction.atomic():
                    self.message_user(request, act(user))
            except (AuditError, MasterKeyError) as error:
                self.message_user(
                    request, f"Nothing was changed, because it could not be audited: {error}", messages.ERROR
                )
            return HttpResponseRedirect(back)
        return form_page(
            self,
            request,
            forms.Form(),
            title=f"{title}: {user}",
            text=text,
            submit_text=title,
            submit_variant=submit_variant,
            back=back,
        )

    def _account(self, request: HttpRequest, object_id: str) -> User:
        """Return the account that the address names; 404 if there is none."""
        user: User | None = self.get_object(request, unquote(object_id))
        if user is None:
            raise Http404("There is no such account.")
        return user

    def _is_within_reach(self, request: HttpRequest, obj: User | str | None) -> bool:
        if obj is None or request.user.is_superuser:
            return True
        # Unfold passes the id instead of the object when it checks the rights of actions.
        user = obj if isinstance(obj, User) else self.get_object(request, unquote(str(obj)))
        return user is not None and not user.is_superuser


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, _AuditedAdmin):  # type: ignore[misc]
    """Groups of operators, and what they may see and do."""

    filter_horizontal = ()

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        group: Group = form.instance
        rights = [f"{p.content_type.app_label}.{p.codename}" for p in group.permissions.select_related("content_type")]
        self._record(request, "change" if change else "add", {"name": group.name, "rights": sorted(rights)})
