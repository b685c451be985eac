"""The overview: completeness, tampering, silence, rotations, and the most urgent things to do."""

from datetime import datetime
from typing import Any

from ami_headend import cached_answers
from ami_headend.console import overview_panels
from ami_headend.console.components import SEE_COMPONENTS, components
from ami_headend.console.deadlines import SEE_DEADLINES, newest_figures
from ami_headend.console.events import SEE_EVENTS
from ami_headend.console.fleet_queries import METERS_HEARD, OUTAGES, PROFILES, SCHEMES_IN_USE
from ami_headend.console.page import ConsolePage
from ami_headend.console.rotation_queries import OPEN_WAVES
from ami_headend.console.todo import to_do
from ami_headend.console.traffic_queries import FAILURES_BY_KIND, VERDICTS
from keyvault.master_key import rewrap

_RIGHTS = {
    METERS_HEARD: "meters.view_meter",
    OUTAGES: SEE_EVENTS,
    SCHEMES_IN_USE: "meters.view_meter",
    PROFILES: "concentrators.view_intervaltotal",
    VERDICTS: "concentrators.view_uplink",
    FAILURES_BY_KIND: "concentrators.view_failuretally",
    OPEN_WAVES: "concentrators.view_rotationwave",
}


class OverviewPage(ConsolePage):
    """The index of the console."""

    name = "index"
    title = "Overview"
    icon = "monitoring"
    live_template_name = "console/overview/live.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        return {**context, **_sections(self.request.user, context["now"])}


def _sections(user: Any, now: datetime) -> dict[str, Any]:
    """Return the sections that the user may see, in the order of the figures. A fixed number of statements."""
    questions = [question for question, right in _RIGHTS.items() if user.has_perm(right)]
    answers = cached_answers.answers(questions, now)
    profiles = answers[PROFILES.name].found if PROFILES in questions else None
    panels: list[overview_panels.Panel] = []
    if user.has_perm(SEE_DEADLINES):
        panels.append({"figures": newest_figures(now)})
    if profiles is not None:
        panels.append(overview_panels.profiles(profiles))
    if METERS_HEARD in questions:
        panels.append(overview_panels.meters(answers[METERS_HEARD.name].found, now))
    if OUTAGES in questions:
        panels.append(overview_panels.outages(answers[OUTAGES.name].found, now))
    if SCHEMES_IN_USE in questions:
        panels.append(overview_panels.schemes(answers[SCHEMES_IN_USE.name].found))
    if user.has_perm("concentrators.view_concentrator"):
        panels.append(overview_panels.concentrators(profiles, now))
    if FAILURES_BY_KIND in questions:
        panels.append(overview_panels.failures(answers[FAILURES_BY_KIND.name].found, now))
    if VERDICTS in questions:
        panels.append(overview_panels.traffic(answers[VERDICTS.name].found, now))
    if OPEN_WAVES in questions:
        master = rewrap.current() if user.has_perm("keyvault.view_masterkeyrotation") else None
        panels.append(overview_panels.rotation(answers[OPEN_WAVES.name].found, master))
    if user.has_perm("concentrators.view_integrityfailure"):
        panels.append(overview_panels.latest_failures(now))
    findings = components() if user.has_perm(SEE_COMPONENTS) else []
    sections = {
        "findings": findings,
        "sees_nothing": not panels and not findings,
        "to_do": to_do(user, findings, now),
        "counted_at": overview_panels.counted_at(answers, now),
    }
    figures = []
    for panel in panels:
        figures += panel.pop("figures", [])
        sections.update(panel)
    return {**sections, "figures": figures}
