"""Checks of what others run and this head-end depends on: proxies before it, mask authorities beside it.

Each gives whether all is well, what was found, and what to do if not.
"""

from concurrent.futures import ThreadPoolExecutor

from ami_headend.signin import unknown_clients
from concentrators.totals import mask_client
from concentrators.totals.mask_client import NoAnswerError
from keyvault.masking import pinned
from keyvault.masking.pinned import PinnedMaskAuthority

ANSWER_S = 3.0
_AT_ONCE = 8
_NAMED = 5


def client_addresses() -> tuple[bool, str, str]:
    """Check that the proxies report where sign-ins come from; otherwise failures count against nobody."""
    found = unknown_clients.found_lately()
    if found is None:
        return True, "known for every sign-in of the last day", ""
    peer, text = found
    to_do = (
        "Let it append the client's address to X-Forwarded-For, and set PROXY_COUNT to the number of proxies in front."
    )
    return False, f"{peer} wrote {text} where a client's address belongs", to_do


def mask_authorities() -> tuple[bool, str, str]:
    """Check that every mask authority that is asked can be reached; it is asked for nothing."""
    asked = pinned.asked()
    if not asked:
        return True, "none is pinned", ""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        away = [text for text in threads.map(_why_away, asked) if text]
    if not away:
        return True, f"{len(asked)} answer", ""
    more = f" and {len(away) - _NAMED} more" if len(away) > _NAMED else ""
    to_do = "See docs/operations/masked.md. Masked totals wait until all authorities of their group answer."
    return False, "; ".join(away[:_NAMED]) + more, to_do


def _why_away(authority: PinnedMaskAuthority) -> str:
    try:
        mask_client.reach(authority.url, ANSWER_S)
    except NoAnswerError as error:
        return f"{authority.name} at {authority.url}: {error}"
    return ""
