"""The OpenID provider: where its pages are, and what it says of whoever signed in there (OpenID Connect Core 1.0).

Authlib does the authorization code flow with PKCE, state and nonce, and verifies the ID token: signature, issuer,
audience, times. Here stands what a deployment sets, and that no error of the other side is a fault of ours.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import requests
from authlib.integrations.base_client import MismatchingStateError, OAuthError
from authlib.integrations.django_client import OAuth
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from ami_headend.core import rate_limits
from ami_headend.core.rate_limits import Counted
from ami_headend.signin import logout_claims
from ami_headend.signin.logout_claims import LoggedOut, LogoutError

# Signed with a key of the provider alone: neither "none", nor an HMAC with what the client knows, too.
_SIGNATURES = frozenset({*(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA"})
_CLOCKS_DIFFER_S = 60
_KEYS_RATE = "6/minute"
_DESCRIPTION_CHARACTERS = 200


class ProviderError(Exception):
    """The provider cannot be reached, or is not what the settings say; the message says which."""


class SignInError(Exception):
    """The provider signed nobody in, or its word does not verify; the message says why."""


class StaleError(SignInError):
    """The answer belongs to no sign-in of this browser, or to one that was answered already."""


def is_configured() -> bool:
    """Whether people may sign in at a provider."""
    return bool(settings.OIDC_ISSUER)


def discovery_url() -> str:
    """Return where the provider describes itself (OpenID Connect Discovery 1.0 section 4)."""
    return str(settings.OIDC_ISSUER).rstrip("/") + "/.well-known/openid-configuration"


def redirect(request: HttpRequest, callback: str, *, again_within_s: int | None = None) -> HttpResponse:
    """Send the browser to the provider; ``again_within_s``: whoever is signed in there has to prove it again."""
    fresh = {} if again_within_s is None else {"prompt": "login", "max_age": again_within_s}
    with _understood():
        answer: HttpResponse = _checked_client().authorize_redirect(request, callback, **fresh)
    return answer


def claims_of(request: HttpRequest) -> Mapping[str, Any]:
    """Return the verified claims of the answer that a browser brought back from the provider.

    Claims of the ID token, and those that the provider gives at its userinfo endpoint alone.
    """
    with _understood():
        client = _checked_client()
        token = client.authorize_access_token(request, leeway=_CLOCKS_DIFFER_S)
        claims = dict(token.get("userinfo") or {})
        if not claims.get("sub"):
            raise SignInError("The provider sent no ID token.")
        if client.server_metadata.get("userinfo_endpoint"):
            further = client.userinfo(token=token)
            if further.get("sub") != claims["sub"]:  # OpenID Connect Core section 5.3.2
                raise SignInError("The provider's userinfo is about somebody else.")
            claims = {**further, **claims}
    return claims


def logged_out(token: str, now_s: float) -> LoggedOut:
    """Return whose sessions a logout token of the provider ends (OpenID Connect Back-Channel Logout 1.0).

    LogoutError if it does not verify, or is not for this head-end now.
    """
    with _understood():
        client = _checked_client()
        try:
            claims = _verified(client, token, anew=False)
        except InvalidKeyIdError:
            # Anybody may send a token: its unknown key makes the provider be asked for its keys only so often.
            if not rate_limits.allows(_KEYS_RATE, Counted("single-sign-on-keys", "")):
                raise
            claims = _verified(client, token, anew=True)
    return logout_claims.read(claims, settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID, now_s)


def _verified(client: Any, token: str, *, anew: bool) -> dict[str, Any]:
    ways = client.server_metadata["id_token_signing_alg_values_supported"]
    keys = KeySet.import_key_set(client.fetch_jwk_set(force=anew))
    registry = JWSRegistry(algorithms=ways, strict_check_header=False)
    try:
        found = jwt.decode(token, key=keys, registry=registry)
    except (TypeError, ValueError):  # a header that is no object, say
        raise LogoutError("it is no token") from None
    if str(found.header.get("typ", "JWT")).removeprefix("application/").lower() not in ("jwt", "logout+jwt"):
        raise LogoutError("it is a token of another type")
    return dict(found.claims)


def check() -> str:
    """Ask the provider for its description, and return what was found. ProviderError: what is wrong with it."""
    _client.cache_clear()
    with _understood():
        described = _checked_client().server_metadata
    return f"{described['issuer']} answers; sign-in at {described['authorization_endpoint']}"


def forget() -> None:
    """Ask the provider for its description anew at the next sign-in."""
    _client.cache_clear()


@lru_cache(maxsize=1)
def _client() -> Any:
    """Return Authlib's client of the provider; it keeps the description and the keys once it has them."""
    return OAuth().register(
        "provider",
        client_id=settings.OIDC_CLIENT_ID,
        client_secret=settings.OIDC_CLIENT_SECRET or None,
        server_metadata_url=discovery_url(),
        client_kwargs={
            "scope": settings.OIDC_SCOPES,
            "code_challenge_method": "S256",
            "default_timeout": settings.OIDC_TIMEOUT_S,
            **({} if settings.OIDC_CLIENT_SECRET else {"token_endpoint_auth_method": "none"}),
        },
    )


def _checked_client() -> Any:
    client = _client()
    if "_loaded_at" in client.server_metadata:
        return client
    try:
        described = client.load_server_metadata()
        _check(described)
    except BaseException:
        forget()
        raise
    return client


def _check(described: dict[str, Any]) -> None:
    """ProviderError if the description is another provider's, or lacks what this sign-in needs."""
    if described.get("issuer") != settings.OIDC_ISSUER:
        said = str(described.get("issuer"))[:_DESCRIPTION_CHARACTERS]
        raise ProviderError(f"it calls itself {said!r}, and OIDC_ISSUER is {settings.OIDC_ISSUER!r}")
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        if not isinstance(described.get(name), str):
            raise ProviderError(f"its description lacks {name}")
    methods = described.get("code_challenge_methods_supported")
    if methods is not None and "S256" not in methods:
        raise ProviderError("it does not take PKCE by S256 (RFC 7636)")
    offered = described.get("id_token_signing_alg_values_supported") or ["RS256"]
    usable = [name for name in offered if name in _SIGNATURES]
    if not usable:
        raise ProviderError("it signs ID tokens in no way that is accepted here")
    described["id_token_signing_alg_values_supported"] = usable


@contextmanager
def _understood() -> Iterator[None]:
    """Turn what Authlib, requests and joserfc raise into the errors of this module."""
    try:
        yield
    except MismatchingStateError:
        raise StaleError("This sign-in was begun in another browser, too long ago, or used already.") from None
    except OAuthError as error:
        said = f"{error.error}: {error.description or ''}".rstrip(": ")
        raise SignInError(f"The provider says {said[:_DESCRIPTION_CHARACTERS]}.") from None
    except JoseError as error:
        raise SignInError(f"The provider's ID token does not verify: {error}.") from None
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise ProviderError(f"{type(error).__name__}: {error}"[: 2 * _DESCRIPTION_CHARACTERS]) from None
