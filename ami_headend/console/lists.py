"""Pages with a list: a form of filters, one page of rows, and a link to the next. Pages continue after a key."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.contrib.auth.models import Group
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from ami_headend import saved_views
from ami_headend.console import list_exports
from ami_headend.console.list_exports import ListExport
from ami_headend.console.page import ConsolePage
from ami_headend.core.clock import EARLIEST, LATEST
from ami_headend.core.numbers import row_number, row_numbers
from ami_headend.saved_views import SHARE
from ami_headend.web.forms import FilterForm, KnownParametersForm
from ami_headend.web.tables import HtmlTable
from keyvault.models import AgreementKey, AgreementState
from meters.models import Meter
from meters.registry.lookup import RegistryError, look_up, parse_system_title

ROWS = 50


def choice(label: str, choices: Sequence[tuple[Any, str]], every: str = "all") -> forms.ChoiceField:
    """A filter by one of a few values; empty for all."""
    return forms.ChoiceField(
        label=label.capitalize(), choices=[("", every), *choices], required=False, widget=UnfoldAdminSelectWidget
    )


def agreement_key_field(label: str) -> forms.TypedChoiceField:
    """A choice of an agreement key by its name; None for the old key's, or the only one there is."""
    return forms.TypedChoiceField(
        choices=_agreement_keys,
        required=False,
        empty_value=None,
        label=label,
        help_text="only for keys that are agreed on, or of scheme sealed",
        widget=UnfoldAdminSelectWidget,
    )


def _agreement_keys() -> list[tuple[str, str]]:
    names = AgreementKey.objects.filter(state=AgreementState.ACTIVE).order_by("name").values_list("name", flat=True)
    return [("", "that of the old key, or the only one"), *((name, name) for name in names)]


def text(label: str, placeholder: str = "") -> forms.CharField:
    """A filter by text."""
    widget = UnfoldAdminTextInputWidget(attrs={"placeholder": placeholder, "spellcheck": "false"})
    return forms.CharField(label=label.capitalize(), max_length=120, required=False, widget=widget)


def box(form: str, name: str, value: int, what: str) -> SafeString:
    """Return a box to choose a row for the form with this id."""
    return format_html(
        '<input type="checkbox" form="{}" name="{}" value="{}" class="console-box" aria-label="{}">',
        form,
        name,
        value,
        what,
    )


def chosen(request: HttpRequest, name: str) -> list[int]:
    """Return the ids of the chosen rows, at most one page of them; other values are ignored."""
    return row_numbers(request.POST.getlist(name))[:ROWS]


class MeterField(forms.CharField):
    """A field for a meter, by serial number or system title."""

    def __init__(self) -> None:
        widget = UnfoldAdminTextInputWidget(attrs={"placeholder": "serial number or system title"})
        super().__init__(max_length=64, required=False, widget=widget)

    def clean(self, value: Any) -> Any:
        """Return the meter; ValidationError if there is none."""
        written = super().clean(value)
        try:
            return look_up(written) if written else None
        except RegistryError as error:
            return self.unknown(written, error)

    def unknown(self, written: str, error: RegistryError) -> Meter | bytes:
        """Return a substitute for a meter that is not registered, or raise ValidationError."""
        raise forms.ValidationError(sentence(error)) from None


class TitlesField(forms.CharField):
    """System titles separated by spaces, commas or lines, in order of the titles."""

    def __init__(self, most: int, rows: int, **options: Any) -> None:
        widget = UnfoldAdminTextareaWidget(attrs={"rows": rows, "spellcheck": "false"})
        super().__init__(max_length=most * 17, widget=widget, **options)

    def clean(self, value: Any) -> Any:
        words = super().clean(value).replace(",", " ").split()
        try:
            return sorted({parse_system_title(word) for word in words})
        except RegistryError as error:
            raise forms.ValidationError(sentence(error)) from None


def sentence(error: Exception) -> str:
    """Write an error of the domain as a sentence for a page."""
    return f"{str(error)[:1].upper()}{str(error)[1:]}."


LISTS: dict[str, "type[FilteredPage]"] = {}  # the pages that views of may be saved, by their names


class FilteredPage(ConsolePage):
    """A page with a form of filters (``form_class``), which can be saved as views (``ami_headend.saved_views``).

    But for a page of one thing, whose address has arguments. ``orders`` are the values that ``sort`` may have.
    """

    form_class: ClassVar[type[KnownParametersForm]] = FilterForm
    orders: ClassVar[Collection[str] | None] = None
    at: ClassVar[str] = ""  # the address where views are opened and rows exported: the page's own

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls) and "<" not in cls.route:
            LISTS[cls.name] = cls

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        """Show the page, or open a view (``view``)."""
        if "view" not in request.GET:
            return super().get(request, *args, **kwargs)
        known = {*self.form_class.base_fields, *self.form_class.others} - {"after", "csrfmiddlewaretoken"}
        view = request.GET["view"]
        return HttpResponseRedirect(view_url(request, view, self.name, request.path, known, self.orders))

    def views(self) -> dict[str, Any] | None:
        """Return the saved views of the page, for its template; None where there can be none. Two queries."""
        if self.name not in LISTS or self.is_live_request or not self.form_class.base_fields:
            return None
        return saved(self.request, self.name, ("after",))


def view_url(
    request: HttpRequest,
    number: str,
    name: str,
    path: str,
    known: Collection[str],
    orders: Collection[str] | None = None,
) -> str:
    """Return the address that a view shows, of the list with this name and path.

    A message says which of its filters and orders are not ``known`` any more, if any.
    """
    views = saved_views.of_page(request.user, name)
    view = views.filter(pk=row_number(number) or 0).first()
    if view is None:
        messages.error(request, "There is no such view any more: somebody deleted it, or shares it no longer.")
        return path
    found = saved_views.usable(view, known, orders)
    if found.lost:
        lost = ", ".join(found.lost)
        said = f"View {view} is shown without {lost}, which this list no longer has. Save it again, or delete it."
        messages.warning(request, said)
    return f"{path}?{found.query}"


def saved(request: HttpRequest, name: str, pages: Collection[str]) -> dict[str, Any]:
    """Return the saved views of a list for its template; ``pages`` are the parameters that say which page it is."""
    query = request.GET.copy()
    for parameter in pages:
        query.pop(parameter, None)
    found = list(saved_views.of_page(request.user, name))
    roles = None
    if request.user.has_perm(SHARE):
        roles = list(Group.objects.order_by("name").values_list("name", flat=True))
    mine = request.user.pk
    return {
        "query": query.urlencode(),
        "all": [(view, view.owner_id == mine, view.query == query.urlencode()) for view in found],
        "roles": roles,
    }


class NoSuchPageError(Exception):
    """The address asks for a page of a list by a key that none of its rows can have."""


class ListPage(FilteredPage):
    """A page of rows: ``find`` returns a table of the filtered rows and the key of the next page.

    ``exported`` gives all rows to save.
    """

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        """Return the rows of a page and the key of the next; NoSuchPageError if ``after`` is not a key."""
        raise NotImplementedError

    def exported(self, filters: dict[str, Any]) -> ListExport | None:
        """Return all rows that the filters leave, if this list can be saved as a file."""
        return None

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        """Show the list, or open a view (``view``), or save the rows as a file (``export``)."""
        return self._export(request) if "export" in request.GET else super().get(request, *args, **kwargs)

    def _export(self, request: HttpRequest) -> HttpResponseBase:
        query = request.GET.copy()
        for name in ("export", "after"):
            query.pop(name, None)
        back = f"{request.path}?{query.urlencode()}" if query else request.path
        form = self.form_class(query)
        if not form.is_valid():
            messages.error(request, "Nothing was exported: correct the filters first.")
            return HttpResponseRedirect(back)
        found = self.exported(form.cleaned_data)
        if found is None:
            raise Http404
        return list_exports.answer(request, self.name, found, back)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        query = self.request.GET.copy()
        after = query.pop("after", None)
        form = self.form_class(query)
        context = super().get_context_data(
            form=form,
            query=query.urlencode(),
            is_filtered=any(query.get(name) for name in form.fields),
            first_page=f"?{query.urlencode()}" if after else None,
            **kwargs,
        )
        if not form.is_valid():
            return context
        try:
            found, key = self.find(form.cleaned_data, str(after[0]).split("~") if after else None)
        except NoSuchPageError:
            return {**context, "is_wrong_page": True}
        if key is not None:
            query["after"] = "~".join(value.isoformat() if isinstance(value, datetime) else str(value) for value in key)
            context["next_page"] = f"?{query.urlencode()}"
        return {**context, "content": found}

    @property
    def can_export(self) -> bool:
        """Whether the list has rows to save."""
        return type(self).exported is not ListPage.exported


@contextmanager
def page_key() -> Iterator[None]:
    """Read a key inside; what cannot be one becomes NoSuchPageError."""
    try:
        yield
    except ValueError:
        raise NoSuchPageError from None


def time_of(written: str) -> datetime:
    """Parse a time in a key; ValueError for any other text."""
    at = datetime.fromisoformat(written)
    if at.tzinfo is None or not EARLIEST <= at <= LATEST:
        raise ValueError("a time without a zone, or one that no row has")
    return at


def text_of(written: Sequence[str]) -> str:
    """Join a name in a key, whatever it contains; ValueError if no name can be so."""
    name = "~".join(written)
    if "\0" in name:
        raise ValueError("not a name")
    return name


def number_of(written: str, below: int = 2**63) -> int:
    """Parse a number in a key; ValueError for any other text."""
    number = int(written)
    if not 0 <= number < below:
        raise ValueError("not the number of a row")
    return number
