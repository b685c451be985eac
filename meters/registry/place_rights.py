"""Who may see places, because they show where a household is. Everything that shows where a meter is asks here."""

from typing import Any

SEE_PLACES = "meters.view_place"


def may_see_places(user: Any) -> bool:
    """Return whether an account may see places, their addresses, and the meters at each."""
    return bool(user.has_perm(SEE_PLACES))
