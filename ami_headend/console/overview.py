"""The overview: what an operator must know first."""

from typing import Any

from ami_headend.console import panels
from ami_headend.console.page import ConsolePage


class OverviewPage(ConsolePage):
    """The index of the console."""

    name = "index"
    title = "Overview"
    icon = "monitoring"
    template_name = "console/overview/page.html"
    live_template_name = "console/overview/live.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        return {**context, **panels.status(self.request.user, context["now"])}
