"""The page of enrolment, and that which lets meters enrol: what they show, to whom, and what they refuse."""

import re
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from pytest_django import Settings

from ami_headend.models import KeptAnswer
from ami_headend.signin import roles
from concentrators.failures.kinds import FailureKind
from keyvault.device_keys import agreement_keys
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.models import AuditRecord, Authority, AwaitedEnrolment, Enrolment
from meters.models import Meter
from tests.concentrators import enrolling
from tests.concentrators.enrolling import AUDIENCE, OFFICER, Newcomer
from tests.concentrators.fleet import NOW, commission, verified
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, IntegrityFailureFactory, MeterFactory
from tests.keyvault import agreeing

pytestmark = pytest.mark.django_db

PAGE, ALLOW = reverse_lazy("admin:enrolment"), reverse_lazy("admin:enrolment-allow")


def words(answer: Any) -> str:
    """What a page says, without its tags."""
    assert isinstance(answer, HttpResponse)
    page = answer.content.decode().partition("<main")[2] or answer.content.decode()
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def awaiting(*meters: Meter) -> None:
    authorities.allow([bytes(meter.system_title) for meter in meters], OFFICER, timezone.now())
    KeptAnswer.objects.all().delete()


def pin(kid: bytes, issuer: str, ends: datetime | None = None) -> None:
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    authorities.pin(PublicAuthority(kid, issuer, public, ends), OFFICER, timezone.now())


def enrolled() -> Newcomer:
    """A meter that enrolled by a certificate that ends a day later."""
    concentrator = ConcentratorFactory.create()
    meter = MeterFactory.create()
    enrolling.pin()
    version = agreeing.agreement_key(X25519PrivateKey.generate(), AUDIENCE)
    awaiting(meter)
    newcomer = Newcomer(meter, version)
    verified(concentrator, [newcomer.frame(newcomer.certificate())], NOW)
    KeptAnswer.objects.all().delete()
    return newcomer


def test_a_fresh_head_end_says_what_to_do() -> None:
    said = words(person(roles.AUDITOR).get(PAGE))
    for text in (
        "manage.py agreement_key init",
        "manage.py authority pin",
        "No meter awaits enrolment",
        "No enrolment",
    ):
        assert text in said
    assert "expire soon" not in said
    assert "Let meters enrol" not in said


def test_versions_of_agreement_keys_and_who_uses_them() -> None:
    titles = [bytes(meter.system_title) for meter in MeterFactory.create_batch(2)]
    first = agreement_keys.init("hes-1", OFFICER)
    agreeing.provision(agreeing.pairs(titles), first)
    agreement_keys.rotate("hes-1", OFFICER, timezone.now())
    said = words(person(roles.KEY_OFFICER).get(PAGE))
    assert "hes-1 version 2 active 0 0" in said
    assert "hes-1 version 1 replaced 2 4" in said
    assert "2 meters still use an older version" in said
    assert bytes(first.public).hex()[:16] in said
    assert bytes(first.wrapped).hex()[:40] not in said


def test_authorities_and_certificates_that_end() -> None:
    newcomer = enrolled()
    now = timezone.now()
    Enrolment.objects.update(expires_at=now + timedelta(days=10))
    for number, ends in enumerate([now - timedelta(days=1), now + timedelta(days=10), now + timedelta(days=400)]):
        pin(bytes([0xFF, number]), f"authority {number}", ends)
    said = words(person(roles.KEY_OFFICER).get(PAGE))
    assert re.search(r"test authority no end 1 0 authority-1 ", said)
    assert "authority 0 expired 0 0 ff00" in said
    assert f"Certificates that expire soon Meter Expires Authority Enrolled Certificate {newcomer.meter} " in said
    Enrolment.objects.update(expires_at=now + timedelta(days=400))
    KeptAnswer.objects.all().delete()
    assert "expire soon" not in words(person(roles.OPERATOR).get(PAGE))


def test_who_waits_and_what_was_refused() -> None:
    first, again = MeterFactory.create(), commission(1, None)[0].meter
    awaiting(first, again)
    IntegrityFailureFactory.create(meter=first, kind=FailureKind.CERTIFICATE_EXPIRED)
    said = words(person(roles.OPERATOR).get(PAGE))
    assert re.search(rf"{first} \d+ s ago its first keys ccm certificate expired ", said)
    assert re.search(rf"{again} \d+ s ago epoch 2 ccm - ", said)
    assert f"Last certificate expired {first}" in said
    client = person(rights=("view_devicekey",))
    assert "Refused enrolments" not in words(client.get(PAGE))
    assert "Last refusal" not in words(client.get(PAGE))


def test_meters_that_await_enrolment_are_found_in_the_list_and_on_their_page() -> None:
    waiting, other = MeterFactory.create_batch(2)
    awaiting(waiting)
    client = person(roles.OPERATOR)
    listed = words(client.get(reverse("admin:meters"), {"health": "enrolling"}))
    assert f"{waiting.serial_number} awaits enrolment" in listed
    assert other.serial_number not in listed
    for extra in ({"search": waiting.serial_number}, {"status": "commissioned"}):
        assert waiting.serial_number in words(client.get(reverse("admin:meters"), {"health": "enrolling", **extra}))
    assert "awaits enrolment since" in words(client.get(reverse("admin:meter", args=[waiting.pk])))
    assert "awaits enrolment" not in words(client.get(reverse("admin:meter", args=[other.pk])))


def test_an_officer_lets_a_meter_enrol_again() -> None:
    newcomer = enrolled()
    client = person(roles.KEY_OFFICER)
    page = client.get(reverse("admin:meter", args=[newcomer.meter.pk])).content.decode()
    assert "by a certificate of test authority" in page
    address = f"{ALLOW}?titles={newcomer.title.hex()}"
    assert address in page
    assert newcomer.title.hex() in client.get(address).content.decode()
    given = {"titles": newcomer.title.hex(), "scheme": "session"}
    assert "1 of them has a key in use, which the new one replaces" in words(client.post(str(ALLOW), given))
    assert not AwaitedEnrolment.objects.exists()
    said = words(client.post(str(ALLOW), {**given, "act": "allow"}, follow=True))
    assert "1 meter may enrol, once each: 1 as session." in said
    assert f"{newcomer.meter} 0 s ago epoch 2 session" in said
    assert AwaitedEnrolment.objects.get().scheme == "session"
    assert AuditRecord.objects.filter(act="authority.allow", result="done").exists()


@pytest.mark.parametrize(
    ("titles", "said"),
    [
        ("", "This field is required"),
        ("zz", "16 hex digits"),
        ("0024befffe999999", "No meter is registered under 0024befffe999999."),
    ],
)
def test_what_cannot_be_allowed_is_said(titles: str, said: str) -> None:
    answer = person(roles.KEY_OFFICER).post(str(ALLOW), {"titles": titles, "act": "allow"})
    assert answer.status_code == 200
    assert said in words(answer)
    assert not AwaitedEnrolment.objects.exists()


def test_the_cost_is_the_same_however_much_there_is(admin_client: Client) -> None:
    def more(count: int) -> None:
        meters = MeterFactory.create_batch(count)
        authorities.allow([bytes(meter.system_title) for meter in meters], OFFICER, timezone.now())
        for meter in meters:
            IntegrityFailureFactory.create(meter=meter, kind=FailureKind.ALREADY_ENROLLED)
            name = f"hes {meter.pk}"
            agreement_keys.init(name, OFFICER)
            pin(name.encode(), name)

    def cost() -> list[str]:
        KeptAnswer.objects.all().delete()
        statements.take()
        assert admin_client.get(PAGE, headers={"HX-Request": "true"}).status_code == 200
        return statements.take()

    more(1)
    with counting() as statements:
        few = cost()
        more(4)
        assert len(cost()) == len(few) <= 22, few


def test_an_authority_is_unpinned_by_its_name() -> None:
    enrolled()
    url = reverse("admin:authority-unpin", args=[enrolling.KID.hex()])
    officer = person(roles.KEY_OFFICER)
    assert url in officer.get(PAGE).content.decode()
    assert url not in person(roles.AUDITOR).get(PAGE).content.decode()
    assert "enrolled 1 meter" in words(officer.get(url))
    assert "Nothing was done: enter test authority to confirm." in words(
        officer.post(url, {"act": "unpin", "issuer": "another"}, follow=True)
    )
    said = words(officer.post(url, {"act": "unpin", "issuer": enrolling.ISSUER}, follow=True))
    assert "test authority is unpinned" in said
    assert "test authority unpinned 1 0 authority-1" in said
    assert "unpinned already" in words(officer.get(url))
    assert "no authority authority-1 is pinned" in words(officer.post(url, {"act": "unpin"}, follow=True))
    for kid in ("ff", "nonsense"):
        assert officer.get(reverse("admin:authority-unpin", args=[kid])).status_code == 404


def test_unpinning_takes_a_second_person(settings: Settings) -> None:
    enrolling.pin()
    url = reverse("admin:authority-unpin", args=[enrolling.KID.hex()])
    settings.REQUIRE_APPROVAL = True
    officer = person(roles.KEY_OFFICER)
    said = words(officer.post(url, {"act": "unpin", "issuer": enrolling.ISSUER}, follow=True))
    assert "Nothing was done: this needs the approval of a second person" in said
    assert "another person can approve it" in words(officer.post(url, {"act": "ask", "reason": "lost"}, follow=True))
    assert "It waits for another person" in words(officer.get(url))
    assert Authority.objects.get().unpinned_at is None
