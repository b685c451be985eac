"""GET /health/live and /health/ready, for load balancers and supervisors: they say whether all is well, and no more."""

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
    """The database answers but refuses writes: a standby that was not promoted, or a read-only server."""


class Probes:
    """Middleware: answers probes before the host name, the scheme or a session is checked.

    Machines call them by a host's address, not its name, and perhaps without the proxy. Everybody else reaches the same
    addresses as views.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        view = _PROBES.get(request.path_info)
        if view is None or (view is metrics and not has_token(request)):
            return self.get_response(request)
        answer = view(request)
        answer["Content-Length"] = str(len(answer.content))  # otherwise the connection could not stay open
        return answer


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """Return 200: this process answers. Checks nothing else."""
    return JsonResponse({"live": True})


@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """Return 200 if database and keys can be used, else 503. The answer names failed checks; the log has the reasons.

    "journal" fails in a restored database until the key journal is replayed into it; "database" if it cannot be
    written; "master_key" if it opens none of the stored keys.
    """
    database = _well(_ask_database)
    checks = {
        "database": database,
        # Left out if the database does not answer: each check would wait as long again.
        "journal": database and _well(journal.check_open),
        "master_key": _well(master_key.probe) and (not database or _well(trial.check_any_opens)),
    }
    well = all(checks.values())
    found = {name: "ok" if fine else "failed" for name, fine in checks.items()}
    return JsonResponse({"ready": well, "checks": found}, status=200 if well else 503)


def _ask_database() -> None:
    if not is_writable():
        close_spoilt_connections(Trouble.READ_ONLY)  # a new session may reach the promoted server
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
