"""Who may see places: where a household is. Every door that shows one, or says where a meter hangs, asks here."""

from typing import Any

SEE_PLACES = "meters.view_place"


def may_see_places(user: Any) -> bool:
    """Whether an account may see places, their addresses, and which meter hangs where."""
    return bool(user.has_perm(SEE_PLACES))
