"""What a mask authority answers, and what it refuses. Pure: no file, clock or socket."""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from keyvault.masking.messages import FEWEST, Request, SumRequest

FRESH_S = 300  # a request is answered only so long after, or before, the time that it says
_NAMED = 20


class Refusal(StrEnum):
    """Why a request is refused."""

    MALFORMED = "malformed"
    NOT_PINNED = "not_pinned"
    OTHER_AUTHORITY = "other_authority"
    NOT_FRESH = "not_fresh"
    TOO_FEW = "too_few"
    NOT_OVER = "not_over"
    BEFORE_STATE = "before_state"
    UNKNOWN_METERS = "unknown_meters"
    OTHER_SET = "other_set"


class RefusedError(Exception):
    """A request that is refused; ``titles`` (8 octets each) are those that it is refused for, if any."""

    def __init__(self, refusal: Refusal, detail: str, titles: Sequence[bytes] = ()) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.titles = titles


class Answered(NamedTuple):
    """What an authority has answered before for a register and start: the set's number, and its titles and minutes."""

    number: int
    titles: tuple[bytes, ...]
    minutes: int


def check_request(request: Request, requesters: Collection[bytes], own: bytes, now_s: int) -> None:
    """RefusedError where a request is of nobody who may ask (Ed25519 public keys), or not for ``own`` now."""
    if request.requester not in requesters:
        raise RefusedError(Refusal.NOT_PINNED, f"the requester {request.requester.hex()} is not pinned here")
    if request.authority != own:
        raise RefusedError(Refusal.OTHER_AUTHORITY, "the request is for another authority")
    if abs(request.at_s - now_s) > FRESH_S:
        detail = f"the request says {request.at_s} and it is {now_s}: set the clock that is wrong"
        raise RefusedError(Refusal.NOT_FRESH, detail)


def check_set(
    request: SumRequest, known: Collection[bytes], before: Mapping[bytes, Answered], began_s: int, now_s: int
) -> Answered | None:
    """What was answered to the same request before, None to one that is to be answered for the first time.

    ``known`` are the titles that the authority has taken, ``before`` what it answered for titles of this request at
    its register and start, ``began_s`` since when its state is whole. RefusedError otherwise.
    """
    code, start_s, minutes = request.cell
    if len(request.titles) < FEWEST:
        raise RefusedError(Refusal.TOO_FEW, f"a sum is of {FEWEST} meters at least, not {len(request.titles)}")
    if minutes < 1 or start_s < 0 or start_s + 60 * minutes > now_s:
        raise RefusedError(Refusal.NOT_OVER, f"the interval of {minutes} min from {start_s} is not over at {now_s}")
    if start_s < began_s:
        detail = f"what was answered for starts before {began_s} is not known here any more, so nothing is"
        raise RefusedError(Refusal.BEFORE_STATE, detail)
    unknown = [title for title in request.titles if title not in known]
    if unknown:
        raise RefusedError(Refusal.UNKNOWN_METERS, f"not taken by a certificate: {named(unknown)}", unknown)
    sets = {before[title].number: before[title] for title in request.titles if title in before}
    if not sets:
        return None
    (first, *others) = sets.values()
    if not others and (first.titles, first.minutes) == (request.titles, minutes):
        return first
    in_others = [title for title in request.titles if title in before]
    detail = f"of {code} from {start_s} another set was answered, which held {named(in_others)}"
    raise RefusedError(Refusal.OTHER_SET, detail, in_others)


def named(titles: Sequence[bytes]) -> str:
    """Titles as a sentence names them: the first of many."""
    more = f" and {len(titles) - _NAMED} more" if len(titles) > _NAMED else ""
    return ", ".join(title.hex() for title in titles[:_NAMED]) + more
