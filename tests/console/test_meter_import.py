"""Meters are imported on a page: checked, refused with every bad line, imported whole; and within one's rights."""

import gzip
import tempfile

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from ami_headend.console import meter_import
from ami_headend.signin import roles
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys
from keyvault.models import DeviceKey
from meters.models import Meter, Place
from tests.console.people import person

pytestmark = pytest.mark.django_db

PAGE = "admin:meter-import"
GOOD = b"""system_title;serial_number;place;address
00-24-be-ff-fe-80-4f-f1;M 1;P1;Mill Lane 7
0024befffe804ff2;M 2;;
"""


def upload(
    octets: bytes, act: str = "import", role: str = roles.OPERATOR, rights: tuple[str, ...] = (), **given: str
) -> tuple[int, str]:
    form = {"file": SimpleUploadedFile("meters.csv", octets), "keys": "later", "act": act, **given}
    answer = person(role, rights=rights).post(reverse(PAGE), form, follow=True)
    return answer.status_code, answer.content.decode()


def test_a_table_is_checked_then_imported() -> None:
    status, text = upload(GOOD, "check")
    assert status == 200
    assert "It can be imported: 2 new" in text
    assert not Meter.objects.exists()
    assert "Imported: 2 new" in upload(GOOD)[1]
    assert Place.objects.get().address == "Mill Lane 7"
    assert not DeviceKey.objects.exists()
    assert "2 unchanged" in upload(GOOD)[1]


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"PK\x03\x04rubbish", "save it as CSV UTF-8"),
        (b"serial_number\nM 1\n", "column system_title is missing"),
        (GOOD.replace(b"4ff2", b"4fx2"), "1 line cannot be imported"),
        (GOOD.replace(b"4ff2;M 2", b"4ff2;m 1"), "cannot be imported"),
        (b"", "empty"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_imported(octets: bytes, said: str) -> None:
    status, text = upload(octets)
    assert status == 200
    assert said in text
    assert tempfile.gettempdir() not in text
    assert not Meter.objects.exists()


@pytest.mark.parametrize("filling", [b"\n", b"a", b'"', b",\n"])
def test_a_small_file_that_unpacks_to_a_large_one_is_not_unpacked(
    filling: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_import, "_OCTETS_MAX", 200_000)
    head = b"system_title,serial_number\n"
    status, text = upload(gzip.compress(head + filling * (200_001 // len(filling))))
    assert status == 200
    assert "unpacks to more than 200,000 octets" in text
    assert "unpacks to" not in upload(gzip.compress(head + b"\n" * 199_000))[1]


def test_lines_beyond_those_that_a_page_takes_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_import, "_LINES_MAX", 2)
    assert "It can be imported: 2 new" in upload(GOOD, "check")[1]
    assert "more than 2 lines: manage.py import_meters takes any number" in upload(GOOD + b'x;y;z;\n"')[1]


def test_public_keys_and_meters_that_enrol_come_through_the_page() -> None:
    agreement_keys.init("hes-1", Actor("officer", "test"))
    public = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    octets = f"""system_title;serial_number;public_key;keys
0024befffe804ff1;M 1;{public};
0024befffe804ff2;M 2;;by certificate
"""
    assert "none are to be made" in upload(octets.encode())[1]
    _, text = upload(octets.encode(), rights=("provision_devicekey",), keys="random")
    assert "1 given key; 1 may enrol by certificate" in text
    assert set(DeviceKey.objects.values_list("source", flat=True)) == {"agreed"}


def test_of_several_agreement_keys_one_is_named() -> None:
    for name in ("hes-1", "hes-2"):
        agreement_keys.init(name, Actor("officer", "test"))
    octets = b"system_title;serial_number;scheme\n0024befffe804ff1;one;sealed\n"
    _, text = upload(octets, rights=("provision_devicekey",), keys="random")
    assert "none is named" in text
    _, text = upload(octets, rights=("provision_devicekey",), keys="random", agreement_key="hes-2")
    assert "1 given key" in text
    assert DeviceKey.objects.get(epoch=1).agreement_key == agreement_keys.find("hes-2", 1)


def test_who_may_make_no_keys_is_not_offered_any() -> None:
    assert "made here" not in person(roles.OPERATOR).get(reverse(PAGE)).content.decode()
    _, text = upload(GOOD, keys="random")
    assert "Select a valid choice" in text
    assert not Meter.objects.exists()
