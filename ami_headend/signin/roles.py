"""The four roles, as groups of Django, with only the rights that their work needs.

An account gets a role by joining its group, and may have several. The migration of this app makes the groups. When a
role gets another right, a new migration calls ``establish`` again.
"""

from typing import Any

from django.apps import apps as current_apps
from django.contrib.auth.management import create_permissions

from keyvault import rights

OPERATOR = "operator"
KEY_OFFICER = "key officer"
ADMINISTRATOR = "administrator"
AUDITOR = "auditor"

_APPS = ("auth", "ami_headend", "alerts", "concentrators", "meters", "keyvault", "signin", "api_tokens")


def _views(app: str, *models: str) -> frozenset[str]:
    return frozenset(f"{app}.view_{model}" for model in models)


_TRAFFIC = _views("concentrators", "concentrator", "uplink", "integrityfailure", "failuretally")
_ROTATION = _views("concentrators", "command", "rotationwave", "wavemeter")
_KEYS = _views("keyvault", "devicekey", "invocationcounter", "tagfailures")
_ALERTS = _views("alerts", "alert", "rule")
_COMPONENTS = _views("ami_headend", "components")
_SEE_DEADLINES = "concentrators.view_readdeadline"
_SEE_LIMITS = "concentrators.view_commandlimit"
_HANDLE_ALERTS = "alerts.handle_alert"

RIGHTS: dict[str, frozenset[str]] = {
    # Runs the meters: sees their data, enrols and places them, and sends them commands that carry no key.
    OPERATOR: _TRAFFIC
    | _COMPONENTS
    | _ALERTS
    | {_HANDLE_ALERTS}
    | _ROTATION
    | _KEYS
    | _views("concentrators", "concentratortoken", "assignment", "intervaltotal")
    | _views("meters", "meter", "place", "installation", "register", "reading", "meterevent", "earlierlength")
    | _views("meters", "pushprofile", "fleetgroup", "sitecode")
    | {"meters.add_eventacknowledgement"}
    | {f"meters.{act}_fleetgroup" for act in ("add", "change", "delete")}
    | {"meters.add_pushprofile", "meters.add_meter", "meters.change_meter", "meters.add_place", "meters.change_place"}
    | {"concentrators.add_assignment", "concentrators.add_command", "concentrators.delete_command", _SEE_LIMITS}
    | {"concentrators.add_acknowledgement", "concentrators.verify_again_uplink"}
    | {f"concentrators.{act}_feedsubscription" for act in ("view", "change", "delete")}
    | {"concentrators.view_feeddelivery"}
    | {_SEE_DEADLINES},
    # Looks after the keys. Sees no reading.
    KEY_OFFICER: _ROTATION
    | _COMPONENTS
    | _ALERTS
    | {_HANDLE_ALERTS}
    | _KEYS
    | _views("concentrators", "concentrator", "integrityfailure", "failuretally")
    | _views("meters", "meter", "fleetgroup")
    | _views("keyvault", "fleetkey", "masterkeyrotation", "downlinkcounter")
    | {"concentrators.add_acknowledgement", "concentrators.verify_again_uplink", _SEE_LIMITS}
    | {rights.PROVISION, rights.ROTATE_DEVICE_KEYS, rights.COMPROMISE, rights.EXPORT_KEYS}
    | {rights.ROTATE_MASTER_KEY, rights.DESTROY_MASTER_KEY, rights.SEE_APPROVALS, rights.DECIDE_APPROVALS},
    # Looks after accounts, concentrators with their tokens, and the register catalogue. May be the second person.
    ADMINISTRATOR: _TRAFFIC
    | _COMPONENTS
    | _ALERTS
    | _views("alerts", "channel", "delivery")
    | {_HANDLE_ALERTS, "alerts.add_rule", "alerts.change_rule", "alerts.delete_rule"}
    | {"alerts.add_channel", "alerts.change_channel", "alerts.delete_channel", "alerts.rotate_channel_secret"}
    | _views("concentrators", "concentratortoken", "assignment", "feedsubscription", "feeddelivery")
    | {f"concentrators.{act}_feeddelivery" for act in ("add", "change", "delete")}
    | _views("meters", "meter", "register", "pushprofile", "fleetgroup", "sitecode")
    | {"meters.change_sitecode", "meters.delete_sitecode"}
    | {f"concentrators.{act}_{model}" for act in ("add", "change") for model in ("concentrator", "concentratortoken")}
    | {"ami_headend.share_savedview"}
    | {_SEE_DEADLINES}
    | {f"concentrators.{act}_readdeadline" for act in ("add", "change", "delete")}
    | {f"concentrators.{act}_commandlimit" for act in ("view", "add", "change", "delete")}
    | {"meters.add_register", "meters.change_register", "concentrators.correct_clock_uplink"}
    | {"auth.view_user", "auth.add_user", "auth.change_user", "auth.delete_user", "auth.view_group"}
    | _views("signin", "signin")
    | {"api_tokens.view_apitoken", "api_tokens.add_apitoken", "api_tokens.change_apitoken"}
    | {rights.SEE_APPROVALS, rights.DECIDE_APPROVALS},
    # Sees who did what to which keys, and the verdicts of frames. Changes nothing, and sees no readings of single
    # meters.
    AUDITOR: _TRAFFIC
    | _COMPONENTS
    | _ALERTS
    | _views("alerts", "channel", "delivery")
    | _ROTATION
    | _KEYS
    | _views("concentrators", "concentratortoken", "assignment", "intervaltotal", "feedsubscription", "feeddelivery")
    | _views("meters", "meter", "register", "pushprofile", "fleetgroup", "sitecode")
    | _views("keyvault", "fleetkey", "masterkeyrotation", "downlinkcounter")
    | _views("auth", "user", "group")
    | _views("signin", "signin")
    | _views("api_tokens", "apitoken")
    | _views("meters", "householdaccess")
    | {_SEE_DEADLINES, _SEE_LIMITS}
    | {rights.SEE_APPROVALS, rights.SEE_AUDIT, rights.EXPORT_AUDIT},
}


def establish(apps: Any, schema_editor: Any) -> None:
    """Create missing groups and give each its missing rights; for ``RunPython``.

    Other rights that an administrator gave a group stay. May run again at any time.
    """
    database = schema_editor.connection.alias
    for label in _APPS:
        # Django creates permissions after all migrations: too late for this one.
        create_permissions(current_apps.get_app_config(label), verbosity=0, using=database)
    groups = apps.get_model("auth", "Group").objects.using(database)
    permissions = apps.get_model("auth", "Permission").objects.using(database)
    known = {
        f"{app}.{codename}": pk
        for app, codename, pk in permissions.values_list("content_type__app_label", "codename", "pk")
    }
    for name, wanted in RIGHTS.items():
        group, _ = groups.get_or_create(name=name)
        group.permissions.add(*(known[right] for right in sorted(wanted)))
