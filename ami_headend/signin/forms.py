"""The forms of second factors and other proofs."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget


class CodeForm(forms.Form):
    """A code of the second factor."""

    code = forms.CharField(
        max_length=40,
        label="Code",
        widget=UnfoldAdminTextInputWidget(
            attrs={"autocomplete": "one-time-code", "autofocus": "", "spellcheck": "false", "autocapitalize": "off"}
        ),
    )


class SetUpForm(CodeForm):
    """The first code that a new authenticator shows."""

    code = forms.CharField(
        max_length=10,
        label="Code that the app shows now",
        widget=UnfoldAdminTextInputWidget(
            attrs={"autocomplete": "one-time-code", "inputmode": "numeric", "autofocus": "", "spellcheck": "false"}
        ),
    )


class ProofForm(forms.Form):
    """A proof that the account's owner acts: a code of the second factor, or the password if there is none."""

    step_up_proof = forms.CharField(max_length=4096, strip=False)

    def __init__(self, *args: Any, has_second_factor: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["step_up_proof"]
        if has_second_factor:
            field.label, field.widget = "Code that your authenticator app shows now", CodeForm().fields["code"].widget
        else:
            field.label = "Password of your account"
            field.widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "current-password", "autofocus": ""})
