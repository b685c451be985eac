"""What a meter signed: the page, REST, and the links from readings to it."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from ami_headend.signin import roles
from concentrators.models import Concentrator
from keyvault.coupons.forms import parse_reading
from tests.builders import senml_payload
from tests.concentrators.fleet import ENERGY, INTERVAL, NOW, START, START_S, commission, judged
from tests.concentrators.scheme_devices import SignedDevice, of_signed
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
PERIOD = {"from": START.isoformat(), "to": (NOW + timedelta(days=1)).isoformat()}


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def meter(concentrator: Concentrator) -> SignedDevice:
    """A meter with six signed packs, the last of them of its meter reading alone."""
    device = of_signed(concentrator)
    last = device.seal(senml_payload({ENERGY: 5}, START_S + 5 * 1800))
    assert judged(concentrator, [*(device.frame(n, 100 + n) for n in range(5)), last]) == {"accepted": 6}
    return device


@pytest.fixture
def operator() -> Client:
    return person(roles.OPERATOR)


def listed(client: Client, device: SignedDevice, **asked: str) -> dict[str, object]:
    answer = client.get(f"/api/v1/meters/{device.title.hex()}/signatures", {**PERIOD, **asked})
    assert answer.status_code == 200, answer.content
    found: dict[str, object] = answer.json()
    return found


def test_each_signature_says_its_readings_and_can_be_verified(operator: Client, meter: SignedDevice) -> None:
    found = listed(operator, meter)
    rows = found["results"]
    assert isinstance(rows, list)
    assert found["next"] is None
    assert len(rows) == 6
    signed = parse_reading(bytes.fromhex(rows[1]["sign1"]))
    assert (signed.kid[:8], signed.number) == (meter.title, rows[1]["number"])
    at = (START + timedelta(minutes=30)).isoformat().replace("+00:00", "Z")
    assert rows[1]["captured_at"] == at
    assert {(one["obis_code"], one["captured_at"], one["value"]) for one in rows[1]["says"]} == {
        (ENERGY, at, "10001"),
        (INTERVAL, at, "101"),
    }


def test_pages_end_where_the_next_begins_and_one_register_may_be_asked_for(
    operator: Client, meter: SignedDevice
) -> None:
    whole = listed(operator, meter)["results"]
    walked: list[object] = []
    address = f"/api/v1/meters/{meter.title.hex()}/signatures?{'&'.join(f'{k}={v}' for k, v in PERIOD.items())}"
    address = address.replace("+", "%2B")
    following: str | None = f"{address}&page_size=4"
    while following:
        answer = operator.get(following).json()
        walked += answer["results"]
        following = answer["next"]
    assert walked == whole
    of_intervals = listed(operator, meter, register=INTERVAL)["results"]
    assert isinstance(of_intervals, list)
    assert len(of_intervals) == 5
    for wrong in ({"register": "1-0:9.9.9"}, {"cursor": "bm8"}, {"meter": "1"}, {"page_size": "0"}):
        answer = operator.get(f"/api/v1/meters/{meter.title.hex()}/signatures", wrong)
        assert answer.status_code == 400, wrong
    assert operator.get(f"/api/v1/meters/{'00' * 8}/signatures").status_code == 404


def test_a_reading_leads_to_what_proves_it(operator: Client, meter: SignedDevice, concentrator: Concentrator) -> None:
    (other,) = commission(1, concentrator)
    assert judged(concentrator, [other.frame(0)]) == {"accepted": 1}
    readings = operator.get(reverse("admin:readings"), {"meter": meter.title.hex()})
    _, _, _, _, _, protected_by, _ = readings.context["content"].rows[0]
    assert "ccm + signed" in str(protected_by.content)
    address = str(protected_by.content).split('href="')[1].split('"')[0].replace("&amp;", "&")
    page = operator.get(address)
    _, _, coupon, says, _, octets = (str(cell.content) for cell in page.context["content"].rows[0])
    assert coupon == "epoch 1, number 1"
    assert says.startswith("2 values, ")
    assert INTERVAL in says
    assert "<code" in octets
    plain = operator.get(reverse("admin:readings"), {"meter": other.title.hex()})
    assert "href" not in str(plain.context["content"].rows[0][5].content)
    assert "signatures of" in operator.get(reverse("admin:meter", args=[meter.meter.pk])).content.decode()
    assert "signatures of" not in operator.get(reverse("admin:meter", args=[other.meter.pk])).content.decode()


def test_without_a_meter_nothing_is_looked_up(operator: Client, meter: SignedDevice) -> None:
    page = operator.get(reverse("admin:signatures"))
    assert page.context["content"].rows == []
    assert "Name a meter" in page.content.decode()


def test_the_number_of_queries_does_not_depend_on_the_signatures(
    operator: Client, concentrator: Concentrator, meter: SignedDevice
) -> None:
    addresses = [
        f"/api/v1/meters/{meter.title.hex()}/signatures",
        f"{reverse('admin:signatures')}?meter={meter.title.hex()}",
    ]
    counted = []
    for interval in (6, 7):
        judged(concentrator, [meter.frame(interval)])
        for address in addresses:
            operator.get(address)
            with counting() as statements:
                operator.get(address)
            counted.append(len(statements))
    assert counted[:2] == counted[2:]
