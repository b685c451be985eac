"""GET /health/live and /health/ready, for load balancers and supervisors: well or not, and no more."""

import logging
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from keyvault import journal, masterkey
from keyvault.masterkey import MasterKeyError

logger = logging.getLogger(__name__)


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """200: this process answers."""
    return JsonResponse({"live": True})


@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """200 where database and keys can be used, else 503; which check fails is told, why stands in the log.

    "journal" fails in a database that was restored, until the key journal is replayed into it.
    """
    checks = {
        "database": _well(_ask_database),
        "journal": _well(journal.check_open),
        "master_key": _well(masterkey.probe),
    }
    well = all(checks.values())
    found = {name: "ok" if fine else "failed" for name, fine in checks.items()}
    return JsonResponse({"ready": well, "checks": found}, status=200 if well else 503)


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _well(look: Callable[[], object]) -> bool:
    try:
        look()
    except (DatabaseError, InterfaceError, MasterKeyError) as error:
        logger.warning("not ready: %s", error)
        return False
    return True
