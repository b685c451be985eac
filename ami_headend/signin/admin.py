"""The journal of sign-ins in the admin. Second factors have no page of their own: the page of an account
resets them.
"""

from django.contrib import admin
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from ami_headend.signin.models import SignIn, SignInOutcome
from ami_headend.web.admin import PeriodFilter, ReadOnlyAdmin

admin.site.unregister(TOTPDevice)
admin.site.unregister(StaticDevice)

_COLOURS = {
    SignInOutcome.SIGNED_IN.label: "success",
    SignInOutcome.RECOVERY_CODE.label: "warning",
    SignInOutcome.WRONG_PASSWORD.label: "warning",
    SignInOutcome.WRONG_CODE.label: "warning",
    SignInOutcome.LOCKED_OUT.label: "danger",
    SignInOutcome.REFUSED.label: "info",
    SignInOutcome.PROVIDER.label: "success",
    SignInOutcome.PROVIDER_REFUSED.label: "warning",
    SignInOutcome.PASSWORDS_OFF.label: "warning",
    SignInOutcome.BREAK_GLASS.label: "danger",
}


@admin.register(SignIn)
class SignInAdmin(ReadOnlyAdmin):
    """Attempts to sign in, by the hour."""

    when_empty = "Nobody has tried to sign in yet."
    list_display = ["last_at", "account_shown", "address", "outcome_label", "attempts", "first_at"]
    list_filter = [("outcome", ChoicesDropdownFilter), ("last_at", PeriodFilter)]
    search_fields = ["account__istartswith", "address__startswith"]
    search_help_text = "the beginning of an account's name or of an address"
    ordering = ["-last_at"]

    @display(description="account", ordering="account")
    def account_shown(self, row: SignIn) -> str:
        return row.account or "no account of that name"

    @display(description="outcome", ordering="outcome", label=_COLOURS)
    def outcome_label(self, row: SignIn) -> str:
        return row.get_outcome_display()
