"""REST of enrolment: what stands of authorities, certificates and meters that may enrol, and what changes it."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.test import Client
from django.urls import reverse_lazy

from ami_headend.signin import roles
from keyvault.enrolment import authorities
from keyvault.enrolment.certificates import parse_certificate, revoke
from keyvault.models import AuditRecord, Authority, AwaitedEnrolment, DeviceKey, Enrolment, KeyState, RevokedCertificate
from tests.concentrators import enrolling
from tests.concentrators.enrolling import AUDIENCE, AUTHORITY, ISSUER, KID, OFFICER, Newcomer
from tests.concentrators.fleet import NOW, judged
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, MeterFactory
from tests.keyvault import agreeing

pytestmark = pytest.mark.django_db
AUTHORITIES, CERTIFICATES = reverse_lazy("authorities"), reverse_lazy("certificates")
REVOCATIONS, AWAITED = reverse_lazy("revocations"), reverse_lazy("awaited-enrolments")
AT_S = int(NOW.timestamp())


@pytest.fixture
def officer() -> Client:
    return person(roles.KEY_OFFICER)


def enrolled(count: int) -> list[Newcomer]:
    """Meters that enrolled by certificates of one authority."""
    if not Authority.objects.exists():
        enrolling.pin()
    version = agreeing.agreement_key(X25519PrivateKey.generate(), f"{AUDIENCE}-{Enrolment.objects.count()}")
    found = [Newcomer(meter, version) for meter in MeterFactory.create_batch(count)]
    authorities.allow([one.title for one in found], OFFICER, NOW)
    frames = [one.frame(one.certificate(audience=version.name)) for one in found]
    assert judged(ConcentratorFactory.create(), frames) == {"accepted": count}
    return found


def post(client: Client, address: Any, **body: Any) -> Any:
    return client.post(address, body, content_type="application/json")


def test_authorities_certificates_and_revocations_are_listed(officer: Client) -> None:
    first, second = enrolled(2)
    row = Enrolment.objects.get(system_title=first.title)
    revocation = revoke(AUTHORITY, KID, bytes(row.cti), AT_S)
    authorities.revoke(revocation, OFFICER, NOW)
    (one,) = officer.get(AUTHORITIES).json()
    public = AUTHORITY.public_key().public_bytes_raw().hex()
    assert (one["kid"], one["issuer"], one["public_key"]) == (KID.hex(), ISSUER, public)
    assert (one["enrolled"], one["revoked"], one["unpinned_at"], one["expires_at"]) == (2, 1, None, None)
    found = officer.get(CERTIFICATES).json()["results"]
    assert [one["system_title"] for one in found] == [first.title.hex(), second.title.hex()]
    assert [bool(one["revoked_at"]) for one in found] == [True, False]
    assert parse_certificate(bytes.fromhex(found[0]["certificate"])).cti.hex() == found[0]["cti"]
    (of_one,) = officer.get(CERTIFICATES, {"meter": second.title.hex(), "authority": KID.hex()}).json()["results"]
    assert of_one == found[1]
    assert officer.get(CERTIFICATES, {"authority": "ff"}).json()["results"] == []
    (told,) = officer.get(REVOCATIONS).json()["results"]
    assert (told["cti"], told["authority"], told["revocation"]) == (found[0]["cti"], KID.hex(), revocation.hex())
    page = officer.get(CERTIFICATES, {"page_size": 1}).json()
    assert officer.get(page["next"]).json()["results"] == [found[1]]
    authorities.unpin(KID, OFFICER, NOW)
    assert officer.get(AUTHORITIES).json()[0]["unpinned_at"]


def test_lists_take_the_same_statements_whatever_their_length(officer: Client) -> None:
    def look() -> None:
        for address in (AUTHORITIES, CERTIFICATES, REVOCATIONS, AWAITED):
            assert officer.get(address).status_code == 200

    def more(count: int) -> None:
        for one in enrolled(count):
            cti = bytes(Enrolment.objects.get(system_title=one.title).cti)
            authorities.revoke(revoke(AUTHORITY, KID, cti, AT_S), OFFICER, NOW)
        authorities.allow([bytes(meter.system_title) for meter in MeterFactory.create_batch(count)], OFFICER, NOW)

    more(1)
    look()
    with counting() as few:
        look()
    more(4)
    with counting() as many:
        look()
    assert len(many) == len(few)


def test_a_revocation_bars_a_certificate_and_may_cut_off_what_it_enrolled(officer: Client) -> None:
    (one,) = enrolled(1)
    cti = bytes(Enrolment.objects.get().cti)
    octets = revoke(AUTHORITY, KID, cti, AT_S).hex()
    answer = post(officer, REVOCATIONS, revocation=octets)
    expected = {"cti": cti.hex(), "system_title": one.title.hex(), "usable_keys": 2, "compromised_keys": 0}
    assert (answer.status_code, answer.json()) == (201, expected)
    no_officer = person(rights=("view_devicekey", "provision_devicekey"))
    refused = post(no_officer, REVOCATIONS, revocation=octets, compromise=True)
    assert refused.status_code == 403
    assert "right to compromise" in refused.json()["detail"]
    assert not DeviceKey.objects.filter(state=KeyState.COMPROMISED).exists()
    answer = post(officer, REVOCATIONS, revocation=octets, compromise=True)
    assert (answer.json()["usable_keys"], answer.json()["compromised_keys"]) == (0, 2)
    assert set(DeviceKey.objects.values_list("state", flat=True)) == {KeyState.COMPROMISED}
    acts = list(AuditRecord.objects.order_by("number").values_list("act", flat=True))
    assert acts[-2:] == ["authority.revoke", "device_key.compromise"]
    other = post(officer, REVOCATIONS, revocation=revoke(AUTHORITY, KID, b"unheard!", AT_S).hex())
    assert other.json() == {"cti": b"unheard!".hex(), "system_title": None, "usable_keys": 0, "compromised_keys": 0}


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        ("zz", "octets in hex digits"),
        ("00" * 513, "at most 512 octets, not 513"),
        ("00", "it is no COSE_Sign1"),
        (revoke(AUTHORITY, b"another", bytes(8), AT_S).hex(), "no authority another is pinned"),
    ],
)
def test_what_is_no_revocation_is_a_problem(officer: Client, octets: str, says: str) -> None:
    enrolling.pin()
    answer = post(officer, REVOCATIONS, revocation=octets)
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert says in answer.json()["detail"]
    assert not RevokedCertificate.objects.exists()


def test_meters_are_let_enrol_and_again(officer: Client) -> None:
    (again,) = enrolled(1)
    new = bytes(MeterFactory.create().system_title)
    answer = post(officer, AWAITED, meters=[again.title.hex(), new.hex()])
    assert (answer.status_code, answer.json()) == (201, {"meters": 2, "by_scheme": {"ccm": 2}})
    found = {row["system_title"]: row for row in officer.get(AWAITED).json()["results"]}
    assert {title: row["newest_epoch"] for title, row in found.items()} == {again.title.hex(): 1, new.hex(): None}
    assert post(officer, AWAITED, meters=[new.hex()], scheme="session", algorithm=11).json()["by_scheme"] == {
        "session": 1
    }
    row = AwaitedEnrolment.objects.get(system_title=new)
    assert (row.scheme, row.algorithm) == ("session", 11)
    assert row.allowed_at - NOW > timedelta(0)
    assert AuditRecord.objects.filter(act="authority.allow").count() == 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"meters": []}, "meters: "),
        ({"meters": ["0024befffe804ff1"]}, "no meter is registered under 0024befffe804ff1"),
        ({"meters": ["nonsense"]}, "meters: "),
        ({"scheme": "rot13"}, "scheme: "),
        ({"scheme": "sealed", "algorithm": 10}, "has no keys for"),
        ({}, "meters: "),
    ],
)
def test_who_may_not_be_let_enrol(officer: Client, body: dict[str, Any], says: str) -> None:
    meter = bytes(MeterFactory.create().system_title).hex()
    answer = post(officer, AWAITED, **({"meters": [meter]} if "scheme" in body else {}), **body)
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert says in answer.json()["detail"]
    assert not AwaitedEnrolment.objects.exists()
