"""Integrity failures in numbers: a sum, a chart and the worst concentrators and meters, under any filters."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from django.urls import reverse
from django.utils.http import urlencode

from ami_headend.console import charts
from ami_headend.console.charts import Chart, Series
from ami_headend.console.failures import SEE, FailureFilters
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import kind_label, link, percent, thousands
from ami_headend.console.lists import FilteredPage
from ami_headend.console.periods import as_filters, day_of, labels, midnight
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.failures import statistics
from concentrators.failures.kinds import Severity
from concentrators.failures.statistics import KEPT_MOST, Numbers

_DAYS = 7
_BY_HOUR = timedelta(days=3)  # shorter periods are shown by the hour
_LONGEST = timedelta(days=400)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_WORST = 10
_COLOURS = {Severity.CRITICAL: charts.BAD, Severity.WARNING: charts.UNSURE, Severity.INFO: charts.PLAIN}
_HOUR = timedelta(hours=1)


class FailureNumbersPage(FilteredPage):
    """The frames rejected in a period; the last seven days unless the filters name another."""

    route = "failures/numbers/"
    name = "failure-numbers"
    title = "Integrity failures in numbers"
    icon = "gpp_maybe"
    permission_required = (SEE,)
    template_name = "console/failures/numbers.html"
    form_class = FailureFilters

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form = FailureFilters(self.request.GET)
        query = self.request.GET.urlencode()
        context = super().get_context_data(form=form, query=query, is_filtered=any(self.request.GET.values()), **kwargs)
        if not form.is_valid():
            return context
        selection = form.selection()
        end = min(max(selection.end or context["now"], _EARLIEST), context["now"] + timedelta(days=1))
        start = max(
            min(selection.start, end) if selection.start else midnight(day_of(end) - timedelta(days=_DAYS - 1)),
            end - _LONGEST,
        )
        selection = dataclasses.replace(selection, start=start, end=end)
        starts = _steps(start, end)
        found = statistics.numbers(selection, starts, end, _WORST)
        return {
            **context,
            "start": starts[0],
            "end": end,
            "figures": _figures(found, self._way(start, end)),
            "chart": _chart(found, starts),
            "kinds": _kinds(found, self._way(start, end)),
            "concentrators": _concentrators(found, self._way(start, end)),
            "meters": self._meters(statistics.by_meter(selection, _WORST), self._way(start, end)),
            "is_of_kept": not statistics.is_counted_by_tallies(selection),
            "kept_most": KEPT_MOST,
        }

    def _way(self, start: datetime, end: datetime) -> dict[str, str]:
        """Return the filters of the address with the shown period, for links to the list."""
        given = {name: str(value) for name, value in self.request.GET.items() if value}
        return given | as_filters(start, end)

    def _meters(self, rows: list[statistics.MeterCount], way: dict[str, str]) -> HtmlTable:
        return table(
            columns_of("meter", "#failures"),
            [
                [
                    "no known meter"
                    if row.serial_number is None
                    else _to_list(way, row.serial_number, meter=row.serial_number),
                    thousands(row.failures),
                ]
                for row in rows
            ],
        )


def _steps(start: datetime, end: datetime) -> list[datetime]:
    """Return the starts of the hours or days of a period, from the one in which it begins."""
    if end - start <= _BY_HOUR:
        first = start.replace(minute=0, second=0, microsecond=0)
        return [first + n * _HOUR for n in range(max(1, -((first - end) // _HOUR)))]
    days = (day_of(end - timedelta(microseconds=1)) - day_of(start)).days + 1
    return [midnight(day_of(start) + timedelta(days=n)) for n in range(days)]


def _figures(found: Numbers, way: dict[str, str]) -> list[Figure]:
    sums = dict.fromkeys(sorted(Severity, reverse=True), 0)
    for kind, failures in found.by_kind.items():
        sums[kind.severity] += failures
    whole = sum(sums.values())
    figures = [Figure("Rejected frames", thousands(whole), "in the period shown", "functions", _list(way))]
    return figures + [
        Figure(
            severity.name.capitalize(),
            thousands(count),
            percent(count, whole),
            "gpp_bad",
            _list(way, severity=severity.name.lower()),
            "bad" if count and severity is Severity.CRITICAL else "",
        )
        for severity, count in sums.items()
    ]


def _chart(found: Numbers, starts: list[datetime]) -> Chart:
    is_by_hour = len(starts) < 2 or starts[1] - starts[0] <= _HOUR
    series = [
        Series(
            severity.name.lower(),
            [sum(n for kind, n in counts.items() if kind.severity is severity) for counts in found.by_step],
            _COLOURS[severity],
        )
        for severity in sorted(Severity, reverse=True)
    ]
    step = "hour" if is_by_hour else "day"
    pattern = "%a %H:%M" if is_by_hour else "%d %b"
    return charts.bars("refused", f"Rejected frames by {step} and severity", labels(starts, pattern), series, "frames")


def _kinds(found: Numbers, way: dict[str, str]) -> HtmlTable:
    whole = sum(found.by_kind.values())
    return table(
        columns_of("kind", "#frames", "#share"),
        [
            [kind_label(kind), _to_list(way, thousands(failures), kind=kind.value), percent(failures, whole)]
            for kind, failures in found.by_kind.items()
        ],
    )


def _concentrators(found: Numbers, way: dict[str, str]) -> HtmlTable:
    whole = sum(found.by_kind.values())
    return table(
        columns_of("concentrator", "#frames", "#share"),
        [
            [
                link(reverse("admin:concentrator", args=[row.id]), row.name),
                _to_list(way, thousands(row.failures), concentrator=row.name),
                percent(row.failures, whole),
            ]
            for row in found.by_concentrator
        ],
    )


def _to_list(way: dict[str, str], text: str, **more: str) -> Any:
    return link(_list(way, **more), text)


def _list(way: dict[str, str], **more: str) -> str:
    return f"{reverse('admin:failures')}?{urlencode(way | more)}"
