"""GET /health/live and /health/ready, for load balancers and supervisors: well or not, and no more."""

import logging
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ami_headend.core.database_errors import Trouble, close_spoilt_connections, is_writable, trouble_of
from ami_headend.metrics.views import has_token, metrics
from keyvault import journal, master_key
from keyvault.master_key import MasterKeyError, trial

logger = logging.getLogger(__name__)


class NotWritableError(DatabaseError):
    """The database answers, and takes nothing: a standby that was not promoted, or one that was set read-only."""


class Probes:
    """Middleware: what machines ask by the address of a host, not by its name, and perhaps past the proxy, is answered
    before anything looks at the name, the scheme or a session. The same addresses are views for everybody else.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        view = _PROBES.get(request.path_info)
        if view is None or (view is metrics and not has_token(request)):
            return self.get_response(request)
        answer = view(request)
        answer["Content-Length"] = str(len(answer.content))  # else the connection could not be kept
        return answer


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """200: this process answers. Asks nothing and nobody."""
    return JsonResponse({"live": True})


@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """200 where database and keys can be used, else 503; which check fails is told, why stands in the log.

    "journal" fails in a database that was restored, until the key journal is replayed into it; "database" where it
    cannot be written; "master_key" where it opens nothing of what is stored.
    """
    database = _well(_ask_database)
    checks = {
        "database": database,
        # Not asked where the database does not answer: each would wait as long again.
        "journal": database and _well(journal.check_open),
        "master_key": _well(master_key.probe) and (not database or _well(trial.check_any_opens)),
    }
    well = all(checks.values())
    found = {name: "ok" if fine else "failed" for name, fine in checks.items()}
    return JsonResponse({"ready": well, "checks": found}, status=200 if well else 503)


def _ask_database() -> None:
    if not is_writable():
        close_spoilt_connections(Trouble.READ_ONLY)  # another session may reach the server that was promoted
        raise NotWritableError("the database cannot be written: it is a standby, or read-only")


def _well(look: Callable[[], object]) -> bool:
    try:
        look()
    except (DatabaseError, InterfaceError, MasterKeyError) as error:
        logger.warning("not ready: %s", error)
        if trouble := trouble_of(error):
            close_spoilt_connections(trouble)
        return False
    return True


_PROBES: dict[str, Callable[[HttpRequest], HttpResponse]] = {
    "/health/live": live,
    "/health/ready": ready,
    "/metrics": metrics,
}
