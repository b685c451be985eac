"""The pages of events and of codes: what they show, to whom, what they change."""

from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from ami_headend.signin import roles
from meters.code_models import EventAcknowledgement, SiteCode
from meters.models import Meter, MeterEvent, Register
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import MeterFactory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("master_key_file")]


def report(meter: Meter, *codes: int, log: str = FRAUD_LOG) -> None:
    register, now = Register.objects.get(obis_code=log), timezone.now()
    MeterEvent.objects.bulk_create(
        MeterEvent(
            meter=meter,
            register=register,
            captured_at=now - timedelta(minutes=n),
            value=code,
            uplink_id=1,
            received_at=now,
        )
        for n, code in enumerate(codes)
    )


class TestEvents:
    url = "/admin/meters/events/"

    def test_the_list_says_what_codes_mean_and_is_filtered(self) -> None:
        meter = MeterFactory.create(serial_number="S1")
        report(meter, 44, 45)
        report(MeterFactory.create(), 7, log=STANDARD_LOG)
        operator = person(roles.OPERATOR)
        text = operator.get(self.url).content.decode()
        assert all(name in text for name in ("meter cover opened", "meter cover closed", "battery must be replaced"))
        text = operator.get(self.url, {"severity": "critical", "meter": "S1", "log": FRAUD_LOG}).content.decode()
        assert "meter cover opened" in text
        assert "meter cover closed" not in text
        assert "battery" not in operator.get(self.url, {"code": f"{FRAUD_LOG}/45"}).content.decode()
        assert "names no log" in operator.get(self.url, {"code": "7"}).content.decode()
        page = operator.get(reverse("admin:meter", args=[meter.pk])).content.decode()
        assert "meter cover opened" in page
        answer: Any = operator.get(self.url, {"severity": "warning", "export": "csv"})
        csv = b"".join(answer.streaming_content)
        assert csv.count(b"\n") == 3

    def test_chosen_events_and_all_found_are_acknowledged(self) -> None:
        meter = MeterFactory.create()
        report(meter, 44, 45, 42)
        operator = person(roles.OPERATOR)
        chosen = MeterEvent.objects.get(value=45).pk
        for body, said in (
            ({"act": "chosen", "event": chosen, "note": ""}, "say in a note what the events were"),
            ({"act": "chosen", "note": "x"}, "none of these events is open"),
            ({"act": "chosen", "event": chosen, "note": "our installer"}, "1 event acknowledged."),
        ):
            assert said in operator.post(self.url, body, follow=True).content.decode()
        answer = operator.post(f"{self.url}?severity=critical", {"act": "all", "note": "a visit"}, follow=True)
        assert "2 events acknowledged." in answer.content.decode()
        assert EventAcknowledgement.objects.count() == 2
        assert "No event matches" in operator.get(self.url, {"state": "open"}).content.decode()

    def test_pages_continue_after_a_key_at_the_same_cost(self) -> None:
        meter = MeterFactory.create()
        report(meter, *range(100, 103))
        operator = person(roles.OPERATOR)
        operator.get(self.url)
        with counting() as few:
            operator.get(self.url)
        report(meter, *range(1000, 1100), log=STANDARD_LOG)
        with counting() as many:
            first = operator.get(self.url)
        assert len(few) == len(many)
        shown = [*_codes(first), *_codes(operator.get(self.url + first.context["next_page"]))]
        assert len(shown) == len(set(shown)) == 100

    def test_who_may_only_look_sees_no_boxes(self) -> None:
        report(MeterFactory.create(), 44)
        looker = person(rights=("view_meterevent",))
        assert "Acknowledge the chosen" not in looker.get(self.url).content.decode()
        assert looker.post(self.url, {"note": "x", "act": "all"}).status_code == 403


def _codes(answer: object) -> list[str]:
    return [row[4 + 1].content for row in answer.context["content"].rows]  # type: ignore[attr-defined]


class TestCodes:
    def test_an_entry_is_stored_and_removed(self) -> None:
        administrator = person(roles.ADMINISTRATOR)
        url = f"{reverse('admin:codes')}?table=events"
        key = f"{STANDARD_LOG}/1"
        assert "power down" in administrator.get(url).content.decode()
        entry = {"key": key, "name": "mains lost", "severity": "critical", "type": "3.26.0.85", "outage": "begins"}
        said = administrator.post(url, {"act": "put", **entry, "severity": "bad"}, follow=True).content.decode()
        assert "severity: one of info, warning, critical" in said
        assert f"{key} is stored." in administrator.post(url, {"act": "put", **entry}, follow=True).content.decode()
        shown = administrator.get(f"{url}&key={key}").content.decode()
        assert "mains lost" in shown
        assert "Remove it" in shown
        administrator.post(url, {"act": "reset", "key": key})
        assert not SiteCode.objects.exists()

    @pytest.mark.parametrize(
        ("table", "entry"),
        [
            ("reading-types", {"key": "1-0:1.8.0", "reading_type": "0.0.2.9.1.1.12.0.0.0.0.0.0.0.0.3.72.0"}),
            ("qualities", {"key": "failed", "cim": "2.6.1001", "espi": "10", "nordic": "A05"}),
        ],
    )
    def test_the_other_tables(self, table: str, entry: dict[str, str]) -> None:
        administrator = person(roles.ADMINISTRATOR)
        administrator.post(f"{reverse('admin:codes')}?table={table}", {"act": "put", **entry})
        assert SiteCode.objects.get().table == table

    def test_operators_look(self) -> None:
        answer = person(roles.OPERATOR).get(reverse("admin:codes"))
        assert 'value="put"' not in answer.content.decode()
