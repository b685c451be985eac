"""The status of device keys: by status and epoch, and keys that need attention."""

from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils.http import urlencode

from ami_headend.console.figures import Figure
from ami_headend.console.formatting import ago, label, link, percent, thousands
from ami_headend.console.keys import questions
from ami_headend.console.page import ConsolePage
from ami_headend.web.tables import Column, HtmlTable, columns_of, table
from concentrators.models import RotationWave, WaveState
from keyvault import approvals, rights
from keyvault.colours import KEY_COLOURS
from keyvault.device_keys.inventory import DeviceKeys, Notable
from keyvault.models import KeyState

_ICONS = {
    KeyState.PENDING: "hourglass_top",
    KeyState.ACTIVE: "vpn_key",
    KeyState.RETIRING: "hourglass_bottom",
    KeyState.RETIRED: "key_off",
    KeyState.COMPROMISED: "gpp_bad",
}
_MEANINGS = {
    KeyState.PENDING: "on their way to the meters",
    KeyState.ACTIVE: "protect frames now",
    KeyState.RETIRING: "accepted for late frames only",
    KeyState.RETIRED: "no frame under them is accepted",
    KeyState.COMPROMISED: "cut off",
}
_EPOCHS = 12


class KeysPage(ConsolePage):
    """Device keys by status and epoch; overdue ones, compromised ones without a successor, and worn ones."""

    route = "keys/"
    name = "keys"
    title = "Device keys"
    icon = "vpn_key"
    permission_required = (rights.SEE_KEYS,)
    template_name = "console/keys/keys.html"
    live_template_name = "console/keys/keys_live.html"
    live_every_s = 10

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        keys, overdue, cut_off, worn = questions.ask(questions.KEYS)
        figures = [
            *_by_state(keys),
            _worry("Overdue", overdue, "pending for longer than a command is valid", "schedule"),
        ]
        figures.append(_worry("Without successor", cut_off, "compromised, without another key", "key_off"))
        figures.append(_worry("Near their budget", worn, "replaced automatically, every hour", "data_usage"))
        if self.request.user.has_perm("concentrators.view_rotationwave"):
            figures.append(_waves_figure())
        if self.request.user.has_perm(rights.SEE_APPROVALS):
            figures.append(_approvals_figure(context["now"]))
        return {
            **context,
            "figures": figures,
            "epochs": _epochs(keys),
            "more_epochs": max(0, len(keys.by_epoch) - _EPOCHS),
            "overdue": _notable(overdue, context["now"], "pending"),
            "cut_off": _notable(cut_off, context["now"], "made"),
            "worn": _notable(worn, context["now"], "in use"),
            "transfer": keys.transfer,
            "fleet_keys": _fleet_keys() if self.request.user.has_perm("keyvault.view_fleetkey") else None,
        }


def _by_state(keys: DeviceKeys) -> list[Figure]:
    total = sum(keys.by_state.values())
    return [
        Figure(
            KeyState(state).label.capitalize(),
            thousands(number),
            f"{_MEANINGS[KeyState(state)]} ({percent(number, total)})" if total else _MEANINGS[KeyState(state)],
            _ICONS[KeyState(state)],
            f"{reverse('admin:keyvault_devicekey_changelist')}?{urlencode({'state__exact': state})}",
            "bad" if state == KeyState.COMPROMISED and number else "",
        )
        for state, number in keys.by_state.items()
    ]


def _worry(title: str, found: Notable, note: str, icon: str) -> Figure:
    return Figure(title, thousands(found.number), note, icon, tone="unsure" if found.number else "good")


def _waves_figure() -> Figure:
    states = list(RotationWave.objects.exclude(state__in=[WaveState.FINISHED, WaveState.CANCELLED]).values("state"))
    stopped = sum(row["state"] == WaveState.STOPPED for row in states)
    note = f"{stopped} stopped by failures" if stopped else "running or paused"
    return Figure(
        "Waves in progress", thousands(len(states)), note, "waves", reverse("admin:waves"), "bad" * bool(stopped)
    )


def _approvals_figure(now: datetime) -> Figure:
    waiting = approvals.waiting(now).count()
    url = reverse("admin:approvals")
    return Figure(
        "Approvals waiting", thousands(waiting), "for a second person", "how_to_reg", url, "unsure" * bool(waiting)
    )


def _epochs(keys: DeviceKeys) -> HtmlTable:
    columns = [Column("epoch"), *(Column(KeyState(state).label, is_number=True) for state in KeyState)]
    newest = sorted(keys.by_epoch.items(), reverse=True)[:_EPOCHS]
    return table(
        columns, [[epoch, *(thousands(states.get(state, 0)) for state in KeyState)] for epoch, states in newest]
    )


def _notable(found: Notable, now: datetime, since: str) -> HtmlTable:
    return table(
        columns_of("device", "#epoch", "-state", "-#highest counter", since),
        [
            [
                link(reverse("admin:keyvault_devicekey_change", args=[key.key_id]), key.system_title.hex()),
                key.epoch,
                label(key.state.label, KEY_COLOURS[key.state]),
                "none" if key.highest < 0 else thousands(key.highest),
                ago(key.since, now),
            ]
            for key in found.listed
        ],
    )


def _fleet_keys() -> HtmlTable:
    return table(
        columns_of("fleet key", "#active keys", "#usable keys"),
        [
            [
                link(reverse("admin:keyvault_fleetkey_change", args=[row.id]), row.name),
                thousands(row.active),
                thousands(row.usable),
            ]
            for row in questions.ask(questions.FLEET_KEYS)
        ],
    )
