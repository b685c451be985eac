"""Every check of a certificate, in its order: a matrix without a database."""

from collections.abc import Callable
from typing import Any

import pytest

from keyvault.enrolment.certificate_checks import PinnedAuthority, Standing, check
from keyvault.enrolment.certificates import Certificate, parse_certificate
from keyvault.refusals import EnrolmentRefusal
from tests.builders import KNOWN_TIME_S, KNOWN_TITLE
from tests.keyvault.enrolment.test_certificates import AUTHORITY_PUBLIC, CERTIFICATE, EXPIRES_S, ISSUER

OTHER = bytes.fromhex("0024befffe804ff2")
SKEW_S = 300
GOOD = parse_certificate(CERTIFICATE)
AUTHORITY = PinnedAuthority(1, ISSUER, AUTHORITY_PUBLIC, None)
STANDING = Standing(AUTHORITY, False, False, None, {"hes-1", "hes-2"}, None)
INVALID, EXPIRED, REVOKED, ALREADY = EnrolmentRefusal

# In the order of the checks: what is wrong, and how.
_Wrong = Callable[[Certificate, Standing], tuple[Certificate, Standing]]
CASES: dict[str, tuple[EnrolmentRefusal, _Wrong]] = {
    "no authority is pinned": (INVALID, lambda c, s: (c, s._replace(authority=None))),
    "another iss": (INVALID, lambda c, s: (c._replace(issuer="x"), s)),
    "its time is over": (EXPIRED, lambda c, s: (c._replace(expires_s=KNOWN_TIME_S), s)),
    "its authority's time is over": (
        EXPIRED,
        lambda c, s: (c, s._replace(authority=s.authority and s.authority._replace(expires_s=KNOWN_TIME_S))),
    ),
    "it begins later": (INVALID, lambda c, s: (c._replace(issued_s=KNOWN_TIME_S + SKEW_S + 1), s)),
    "not before": (INVALID, lambda c, s: (c._replace(not_before_s=KNOWN_TIME_S + SKEW_S + 1), s)),
    "revoked": (REVOKED, lambda c, s: (c, s._replace(is_revoked=True))),
    "used": (ALREADY, lambda c, s: (c, s._replace(is_used=True))),
    "of another meter": (INVALID, lambda c, s: (c._replace(system_title=OTHER), s)),
    "for another head-end": (INVALID, lambda c, s: (c._replace(audience="hes-3"), s)),
    "older than another": (REVOKED, lambda c, s: (c, s._replace(newest_s=c.issued_s + 1))),
    "another's public key": (INVALID, lambda c, s: (c, s._replace(public_of=OTHER))),
    "the public key that it had": (INVALID, lambda c, s: (c, s._replace(public_of=KNOWN_TITLE))),
    "the head-end's public key": (INVALID, lambda c, s: (c, s._replace(public_of=b""))),
}


def checked(certificate: Certificate, standing: Standing, came_s: int = KNOWN_TIME_S) -> Any:
    return check(certificate, KNOWN_TITLE, came_s, SKEW_S, standing)


@pytest.mark.parametrize("case", CASES)
def test_each_alone(case: str) -> None:
    kind, wrong = CASES[case]
    found = checked(*wrong(GOOD, STANDING))
    assert found is not None
    assert found[0] is kind
    assert found[1]


def test_the_first_that_fails_is_told() -> None:
    certificate, standing = GOOD, STANDING
    for kind, wrong in reversed(CASES.values()):
        certificate, standing = wrong(certificate, standing)
        found = checked(certificate, standing)
        assert found is not None
        assert found[0] is kind


@pytest.mark.parametrize("came_s", [KNOWN_TIME_S - SKEW_S, KNOWN_TIME_S, EXPIRES_S - 1])
def test_a_good_one(came_s: int) -> None:
    assert checked(GOOD, STANDING, came_s) is None
    assert checked(GOOD, STANDING._replace(newest_s=GOOD.issued_s), came_s) is None
