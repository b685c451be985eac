"""{% load console %}: formats of figures, and components of the console."""

from typing import Any

from django import template
from django.contrib.admin.views.main import ChangeList

from ami_headend.console import formatting
from ami_headend.console.charts import Chart
from ami_headend.web.tables import HtmlTable

register = template.Library()

for _filter in (
    formatting.thousands,
    formatting.energy,
    formatting.power,
    formatting.percent,
    formatting.duration,
    formatting.ago,
    formatting.moment,
    formatting.in_zone,
    formatting.zone_name,
    formatting.label,
    formatting.kind_label,
):
    register.filter(_filter.__name__, _filter)


@register.inclusion_tag("console/components/table.html")
def table(content: HtmlTable, empty: str = "Nothing yet.") -> dict[str, Any]:
    """Render a table inside a card; ``empty`` says what it means, and what to do, if there are no rows."""
    return {"table": content, "empty": empty}


@register.inclusion_tag("console/components/chart.html")
def chart(content: Chart) -> dict[str, Any]:
    """Render a chart, which survives when the live part around it is refreshed."""
    return {"chart": content}


@register.simple_tag(takes_context=True)
def model_list(context: template.Context, shown: ChangeList) -> Any:
    """Return a list of the admin, for its saved views and its export."""
    from ami_headend.console.model_lists import ModelList  # noqa: PLC0415 - unfold loads these tags as it is imported

    return ModelList(context["request"], shown.opts.label_lower)
