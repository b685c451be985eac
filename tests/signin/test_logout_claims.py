"""What a logout token must say, claim by claim."""

from typing import Any

import pytest

from ami_headend.signin.logout_claims import EVENT, LogoutError, read

NOW_S = 1_800_000_000.0
GOOD: dict[str, Any] = {
    "iss": "https://login.example",
    "aud": "headend",
    "iat": NOW_S,
    "exp": NOW_S + 120,
    "jti": "one",
    "events": {EVENT: {}},
    "sub": "ann",
    "sid": "first",
}


def found(**changed: Any) -> tuple[str, str, str]:
    claims = {name: value for name, value in {**GOOD, **changed}.items() if value is not None}
    return read(claims, "https://login.example", "headend", NOW_S)


@pytest.mark.parametrize(
    ("changed", "who"),
    [
        ({}, ("ann", "first")),
        ({"sub": None}, ("", "first")),
        ({"sid": None}, ("ann", "")),
        ({"aud": ["other", "headend"]}, ("ann", "first")),
        ({"exp": None}, ("ann", "first")),  # providers before the final specification
        ({"iat": NOW_S - 299}, ("ann", "first")),
        ({"iat": NOW_S + 59, "exp": NOW_S - 59}, ("ann", "first")),  # clocks differ
    ],
)
def test_who_signed_out(changed: dict[str, Any], who: tuple[str, str]) -> None:
    assert found(**changed) == (*who, "one")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "https://elsewhere"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "other"}, "another client"),
        ({"aud": ["other"]}, "another client"),
        ({"aud": None}, "another client"),
        ({"iat": None}, "when it was issued"),
        ({"iat": "1800000000"}, "when it was issued"),
        ({"iat": True}, "when it was issued"),
        ({"iat": NOW_S - 301}, "too old"),
        ({"iat": NOW_S + 61}, "of the future"),
        ({"exp": NOW_S - 61}, "too old"),
        ({"exp": "soon"}, "when it was issued"),
        ({"iat": float("nan")}, "too old"),
        ({"events": None}, "no logout"),
        ({"events": [EVENT]}, "no logout"),
        ({"events": {EVENT: True}}, "no logout"),
        ({"events": {"other": {}}}, "no logout"),
        ({"nonce": "one"}, "has a nonce"),
        ({"sub": None, "sid": None}, "neither subject nor session"),
        ({"sub": "", "sid": None}, "neither subject nor session"),
        ({"jti": None}, "no identifier"),
        ({"jti": 7}, "its jti is not a text"),
        ({"sub": 7}, "its sub is not a text"),
        ({"sid": "x" * 256}, "its sid is not a text"),
        ({"sid": "a\0"}, "its sid is not a text"),
    ],
)
def test_what_ends_no_session(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(LogoutError, match=why):
        found(**changed)
