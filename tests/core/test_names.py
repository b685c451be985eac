"""Names: what cannot be seen does not tell two of them apart, at any door."""

from urllib.parse import quote

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from ami_headend.core import names
from ami_headend.core.names import UnreadableNameError, alike, check, tidy
from concentrators.models import Concentrator
from meters.models import Installation, Place
from meters.registry.import_plan import carry_out, plan_import
from meters.registry.lookup import look_up
from meters.registry.meter_file import MeterLine
from tests.factories import ConcentratorFactory, MeterFactory


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("  SN-1\t", "SN-1"),
        ("SN\u200b-1", "SN-1"),
        ("\ufeffSN-1\u2060", "SN-1"),
        ("Mill\u00a0Lane  4", "Mill Lane 4"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("S\u00adN\u3164\ufe0f", "SN"),
        ("\u200b", ""),
    ],
)
def test_a_name_is_what_people_see(written: str, seen: str) -> None:
    assert tidy(written) == check(written) == seen


@pytest.mark.parametrize("text", ["a\0b", "a\x1bb", "a\ud800b", "a\ue000b"])
def test_what_cannot_be_shown_is_refused(text: str) -> None:
    with pytest.raises(UnreadableNameError, match="cannot be shown"):
        check(text)


@given(st.text())
def test_tidied_again_it_stays(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)


@pytest.mark.django_db
class TestDoors:
    def test_the_model_tidies_what_is_stored_and_looked_for(self) -> None:
        row = Concentrator.objects.create(name="  DCU\u200b-17 ")
        assert row.name == Concentrator.objects.get().name == "DCU-17"
        assert Concentrator.objects.get(name=" DCU-17") == row
        with pytest.raises(ValidationError, match="already exists"):
            Concentrator(name="DCU-17\u200b").full_clean()
        with pytest.raises(ValidationError, match="cannot be shown"):
            Concentrator(name="DCU\x1b").full_clean()

    @pytest.mark.parametrize("text", ["a\x1bb", "a\ue000b", "a\ud7ffb"])
    def test_what_cannot_be_a_name_is_looked_for_and_not_stored(self, text: str, admin_client: Client) -> None:
        assert not Concentrator.objects.filter(name__gte=f"{text}z", name=text).exists()
        for address in ("/api/v1/places?customer_reference=", "/api/v1/places?name=", "/admin/places/?after="):
            assert admin_client.get(address + quote(text)).status_code == 200
        row = ConcentratorFactory.create()
        with pytest.raises(ValidationError, match="cannot be shown"):
            Concentrator.objects.create(name=text)
        with pytest.raises(ValidationError, match="cannot be shown"):
            Concentrator.objects.filter(pk=row.pk).update(name=text)

    @pytest.mark.parametrize("again", [" DCU-17 ", "DCU-17\u200b", "dcu-17"])
    def test_concentrator_add_takes_no_padded_name(self, again: str, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("concentrator", "add", " DCU-17 ")
        assert Concentrator.objects.get().name == "DCU-17"
        assert "Registered DCU-17." in capsys.readouterr().out
        with pytest.raises(CommandError, match="there is a concentrator DCU-17 already"):
            call_command("concentrator", "add", again)

    @pytest.mark.parametrize("again", ["sn-1", "SN-1\u200b", " SN-1", "SN\u20111", "\uff33\uff2e\uff0d\uff11"])
    def test_serial_numbers_that_look_alike_are_one_meter(self, again: str) -> None:
        meter = MeterFactory.create(serial_number="SN-1")
        with pytest.raises(IntegrityError), transaction.atomic():
            MeterFactory.create(serial_number=again)
        assert look_up(again) == meter

    @pytest.mark.parametrize("again", ["haus\u20111 \ufb02at", "HAUS\u20131 FLAT", "\uff28aus-1 flat"])
    def test_places_and_concentrators_that_look_alike_are_one(self, again: str) -> None:
        for model in (Place, Concentrator):
            row = model.objects.create(name="Haus-1 flat")
            with pytest.raises(ValidationError, match="or one that looks like it, already"):
                model(name=again).full_clean()
            with pytest.raises(IntegrityError), transaction.atomic():
                model.objects.create(name=again)
            row.refresh_from_db()
            assert row.name == "Haus-1 flat"

    def test_a_table_finds_the_place_that_stands_under_its_other_spelling(self) -> None:
        place, now = Place.objects.create(name="Haus-1"), timezone.now()
        line = MeterLine(2, bytes(8), "SN-9", place="haus\u20111")
        carry_out(plan_import([line], now, update=False), now)
        assert Installation.objects.get().place == place
        assert Place.objects.count() == 1
        [bad] = plan_import([MeterLine(3, bytes(7) + b"1", "sn\u20119")], now, update=False).bad
        assert "serial number sn\u20119 is registered with system title 0000000000000000" in bad.reason

    @pytest.mark.parametrize(
        "text",
        ["\uff21\uff0d\u2460", "\u00c4\u00df\u1e9e", "\u0130\u03a3\u03c3\u03c2", "\u2011\u2212\u2014", "K\u212a\ufb01"],
    )
    def test_postgresql_compares_as_python_does(self, text: str) -> None:
        ConcentratorFactory.create(name=text)
        assert Concentrator.objects.values_list(names.Alike("name"), flat=True).get() == alike(text)
