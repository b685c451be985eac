"""The audit chain: records of acts on keys and accounts, whether the chain is intact, and its export."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.urls import reverse
from django.utils.html import format_html

from ami_headend.alerts.models import Alert, Condition, Rule
from ami_headend.console import list_exports
from ami_headend.console.acts import Act, ActingPage, Wrong
from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, clipped, moment, thousands
from ami_headend.console.list_exports import ListExport, paged
from ami_headend.console.lists import ROWS, ListPage, number_of, page_key, text
from ami_headend.console.page import ConsolePage
from ami_headend.core import step_up
from ami_headend.core.text import counted
from ami_headend.web.forms import FilterForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from keyvault import rights
from keyvault.audit import chain, witness
from keyvault.audit.chain import AuditError, Head
from keyvault.master_key import MasterKeyError
from keyvault.models import AuditRecord
from meters.registry.lookup import RegistryError, look_up, parse_system_title

_WALKED_AT_ONCE = 100_000


class AuditFilters(FilterForm):
    """Filters records by act, actor, meter or key, and time."""

    of = text("meter or key", "serial number, system title or fingerprint")
    act = text("act begins with", "device_key.")
    actor = text("by", "account or system user")
    field_order = ["act", "actor", "of", "from", "to"]


class AuditPage(ListPage, ActingPage):
    """The records, newest first, and whether the chain is intact."""

    route = "keys/audit/"
    name = "audit"
    title = "Audit chain"
    icon = "policy"
    permission_required = (rights.SEE_AUDIT,)
    template_name = "console/keys/audit.html"
    form_class = AuditFilters

    def acts(self) -> Mapping[str, Act]:
        return {"verify": Act(rights.EXPORT_AUDIT, _verify)}

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        rows = _matching(filters)
        if after is not None:
            with page_key():
                (last,) = after
                rows = rows.filter(number__lt=number_of(last))
        found = list(rows[: ROWS + 1])
        return _records(found[:ROWS]), [found[ROWS - 1].number] if len(found) > ROWS else None

    def exported(self, filters: dict[str, Any]) -> ListExport:
        if not self.request.user.has_perm(rights.EXPORT_AUDIT):
            raise PermissionDenied
        step_up.require(self.request)  # as for the export of the chain
        rows = _matching(filters)

        def page(key: int | None) -> tuple[list[RecordRow], int | None]:
            found = list((rows if key is None else rows.filter(number__lt=key))[: list_exports.BATCH])
            return [_row(one) for one in found], found[-1].number if len(found) == list_exports.BATCH else None

        return ListExport(RecordRow, paged(page), lambda most: rows.order_by()[:most].count(), is_personal=True)

    @property
    def can_export(self) -> bool:
        """Whether the user may save the records: seeing them does not suffice."""
        return self.request.user.has_perm(rights.EXPORT_AUDIT)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        head = chain.head()
        return {
            **context,
            "head": head,
            "figures": _figures(head),
            "may_export": self.request.user.has_perm(rights.EXPORT_AUDIT),
        }


class RecordRow(NamedTuple):
    """A record in the export of the list; the export of the chain has what proves it."""

    number: int
    at: datetime
    act: str
    actor: str
    source: str
    subject: str
    result: str


def _row(row: AuditRecord) -> RecordRow:
    return RecordRow(row.number, row.at, row.act, row.actor, row.source, _plain(row.subject), row.result)


def _matching(filters: dict[str, Any]) -> QuerySet[AuditRecord]:
    rows = AuditRecord.objects.order_by("-number")
    if filters.get("act"):
        rows = rows.filter(act__startswith=filters["act"])
    if filters.get("actor"):
        rows = rows.filter(actor=filters["actor"])
    if filters.get("of"):
        rows = rows.filter(pk__in=chain.naming(_name(filters["of"])))
    if filters.get("from"):
        rows = rows.filter(at__gte=filters["from"])
    if filters.get("to"):
        rows = rows.filter(at__lt=filters["to"])
    return rows


class AuditExport(ConsolePage):
    """The whole chain as JSON Lines, one record a line, oldest first. The export is recorded too."""

    route = "keys/audit/export/"
    name = "audit-export"
    title = "Export of the audit chain"
    permission_required = (rights.SEE_AUDIT, rights.EXPORT_AUDIT)

    def get(  # type: ignore[override]  # a page of Django's is never a stream
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        head = chain.head()
        try:
            chain.record(chain.web_actor(request), "audit.export", {"head": str(head)})
        except (AuditError, MasterKeyError) as error:
            messages.error(request, f"Nothing was exported, because it could not be recorded: {error}")
            return HttpResponseRedirect(reverse("admin:audit"))
        return StreamingHttpResponse(
            _lines(),
            content_type="application/jsonl; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="audit-{head.number}.jsonl"'},
        )


def _lines() -> Iterator[str]:
    for line in chain.export():
        yield f"{line}\n"


def _name(written: str) -> str:
    """Return the name that records use for a meter or key: its system title, its fingerprint, or the text itself."""
    try:
        return bytes(look_up(written).system_title).hex()
    except RegistryError:
        pass  # it may be a device that was never registered, or the fingerprint of a key
    try:
        return parse_system_title(written).hex()
    except RegistryError:
        return written.strip()


def _verify(request: HttpRequest) -> str:
    if chain.head().number > _WALKED_AT_ONCE:
        raise Wrong("The chain is too long to verify while you wait: use manage.py audit verify.")
    verified = witness.verify(_seen_last())  # without it, the rule would continue from a chain that was cut off
    with transaction.atomic():  # the page and the rule both use this head
        for rule in Rule.objects.select_for_update().filter(condition=Condition.AUDIT_BROKEN, is_enabled=True):
            rule.marks["head"] = {"number": verified.head.number, "mac": verified.head.mac.hex()}
            rule.save(update_fields=["marks"])
    return f"Verified: {verified} Keep the head: {verified.head}"


def _seen_last() -> Head | None:
    """Return the last head that a rule saw; the chain must still hold it."""
    watching = Rule.objects.filter(condition=Condition.AUDIT_BROKEN, is_enabled=True)
    heads = [marks["head"] for marks in watching.values_list("marks", flat=True) if marks.get("head")]
    newest = max(heads, key=lambda head: int(head["number"]), default=None)
    return Head(newest["number"], bytes.fromhex(newest["mac"])) if newest else None


def _figures(head: Head) -> list[Figure]:
    broken = Alert.objects.filter(rule__condition=Condition.AUDIT_BROKEN, resolved_at=None).first()
    watching = Rule.objects.filter(condition=Condition.AUDIT_BROKEN, is_enabled=True).order_by("pk").first()
    kept = None if watching is None else watching.marks.get("head")
    if broken is not None:
        state = Figure("Chain", "broken", broken.summary, "gpp_bad", tone="bad")
    elif kept is not None and (kept["number"] or not head.number):
        far = f"verified up to record {kept['number']:,}" if kept["number"] else "nothing has been recorded yet"
        since = head.number - kept["number"]
        state = Figure("Chain", "whole", f"{far}, {since:,} since" if since > 0 else far, "verified", tone="good")
    elif kept is not None:
        state = Figure(
            "Chain", "unverified", f"{counted(head.number, 'record')} since the last check", "help", tone="unsure"
        )
    else:
        state = Figure("Chain", "unverified", "the alert rule for it has not run yet", "help", tone="unsure")
    return [state, Figure("Records", thousands(head.number), "records are never removed", "receipt_long")]


def _records(rows: Sequence[AuditRecord]) -> HtmlTable:
    return table(
        columns_of("-#number", "time", "act", "by", "-from", "-subject", "-result"),
        [
            [
                row.number,
                moment(row.at),
                row.act,
                clipped(row.actor),
                clipped(row.source or NOTHING),
                _subject(row.subject),
                clipped(row.result),
            ]
            for row in rows
        ],
    )


def _subject(subject: Mapping[str, Any]) -> Any:
    written = ", ".join(f"{name} {_plain(value)}" for name, value in subject.items())
    return format_html('<span class="console-clip" title="{}">{}</span>', written, written) if written else NOTHING


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
