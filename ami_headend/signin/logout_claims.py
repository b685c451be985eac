"""What a logout token says (OpenID Connect Back-Channel Logout 1.0 sections 2.4 and 2.6), once its signature verified.

Pure. A token is good for a few minutes, however long it says; ``provider_logouts`` knows which ones have come.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

EVENT = "http://schemas.openid.net/event/backchannel-logout"
GOOD_FOR_S = 300
CLOCKS_DIFFER_S = 60
_CHARACTERS = 255


class LogoutError(Exception):
    """A logout token that ends no session here; the message says why."""


class LoggedOut(NamedTuple):
    """Who signed out at the provider: the subject, its session there, or both; empty if it is not said.

    ``token_id`` is the token's own identifier.
    """

    subject: str
    session: str
    token_id: str


def read(claims: Mapping[str, Any], issuer: str, client_id: str, now_s: float) -> LoggedOut:
    """Return who signed out. LogoutError if the claims are not those of a logout token for this client now."""
    audience = claims.get("aud")
    if claims.get("iss") != issuer:
        raise LogoutError("it is of another issuer")
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        raise LogoutError("it is for another client")
    _check_times(claims, now_s)
    events = claims.get("events")
    if not isinstance(events, Mapping) or not isinstance(events.get(EVENT), Mapping):
        raise LogoutError("it tells of no logout")
    if "nonce" in claims:  # an ID token, which must not end sessions
        raise LogoutError("it has a nonce")
    found = LoggedOut(_text(claims, "sub"), _text(claims, "sid"), _text(claims, "jti"))
    if not found.token_id:
        raise LogoutError("it has no identifier (jti)")
    if not found.subject and not found.session:
        raise LogoutError("it names neither subject nor session")
    return found


def _check_times(claims: Mapping[str, Any], now_s: float) -> None:
    issued_s, ends_s = _seconds(claims.get("iat")), _seconds(claims.get("exp", now_s))
    if not -CLOCKS_DIFFER_S <= now_s - issued_s <= GOOD_FOR_S or now_s > ends_s + CLOCKS_DIFFER_S:
        raise LogoutError("it is too old, or of the future")


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise LogoutError("it does not say when it was issued")
    return float(value)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > _CHARACTERS or "\0" in value:
        raise LogoutError(f"its {name} is not a text of up to {_CHARACTERS} characters")
    return value
