"""A request that came to another cell than its token names (docs/scaling.md)."""

from django.conf import settings
from rest_framework import exceptions, status

from ami_headend.core import bearer


class MisdirectedRequest(exceptions.APIException):
    """The token is of another cell (RFC 9110 section 15.5.20). Nothing says whether it would be valid there."""

    status_code = status.HTTP_421_MISDIRECTED_REQUEST


def check(token: str) -> None:
    """MisdirectedRequest if a token that is not valid here names another cell.

    Ask where none was found: what came along when a cell was split is valid under its old name.
    """
    named = bearer.cell_of(token)
    if named and named != settings.CELL:
        here = f"this is cell {settings.CELL}" if settings.CELL else "this head-end is none (CELL is not set)"
        raise MisdirectedRequest(f"The token is of cell {named}, and {here}: ask at the address of that cell.")
