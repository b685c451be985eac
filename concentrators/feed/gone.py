"""What a consumer is told whose cursor cannot be followed: where to go on, what to discard, what to read again."""

from typing import Any

from concentrators.feed.cursor import Cursor
from concentrators.feed.pages import GoneError
from concentrators.feed.rows import Resource


def resume(resource: Resource, error: GoneError) -> Cursor:
    """Return the cursor to go on with."""
    return Cursor(resource, error.state.era, error.gone.resume)


def told(resource: Resource, error: GoneError) -> tuple[str, dict[str, Any]]:
    """Return it in words, and as members of an answer or document (docs/integration.md)."""
    gone, state = error.gone, error.state
    members: dict[str, Any] = {
        "era": state.era,
        "resume": str(resume(resource, error)),
        "discard_after": gone.discard_after,
    }
    texts = []
    if gone.discard_after is not None:
        texts.append(
            "the head-end was restored from a backup: discard the rows that you took at positions after "
            f"{gone.discard_after}, then go on with the cursor in `resume`"
            + ("" if gone.discard_after else " (if nothing was restored, the cursor is of another head-end: compare)")
        )
    elif gone.missed is None:
        texts.append("the head-end was restored from a backup: all that you took stands; go on with `resume`")
    if gone.missed is not None:
        first, last = error.span or (None, None)
        members["read_again"] = {"from": first, "to": last}
        span = f"from {first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}" if first and last else "of any time"
        texts.append(
            f"rows of positions {gone.missed[0]} to {gone.missed[1] - 1} are no longer kept in the feed: read what "
            f"was captured {span} at /api/v1/{resource}, then go on with the cursor in `resume`"
        )
    return "; and ".join(texts) + ".", members
