"""The shipped tables of codes, and what a site may put in their place."""

import re
from typing import Any

import pytest

from keyvault.schemes.table import SCHEMES
from meters.codes import event_codes, qualities, reading_types
from meters.codes.event_codes import CodeKey, EventCodes, EventMeaning, Outage
from meters.codes.qualities import Fact, Qualities, Quality
from meters.codes.reading_types import ReadingTypes
from meters.codes.severity import Severity
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG, STANDARD_REGISTERS, RegisterKind


class TestReadingTypes:
    def test_every_standard_register_has_one_of_18_numbers(self) -> None:
        known = ReadingTypes()
        for register in STANDARD_REGISTERS:
            if register.kind is not RegisterKind.EVENT:
                found = known.of(register.obis_code, 15 if register.kind is RegisterKind.INTERVAL else 0)
                assert found is not None, register
                assert re.fullmatch(r"\d+(\.\d+){17}", found.text)

    @pytest.mark.parametrize(
        ("minutes", "period"), [(1, 3), (5, 6), (10, 1), (15, 2), (20, 31), (30, 5), (60, 7), (1440, 4), (7, 0)]
    )
    def test_the_measuring_period_follows_from_the_length(self, minutes: int, period: int) -> None:
        found = ReadingTypes().of("1-0:1.29.0", minutes)
        assert found is not None
        assert (found.text, found.measuring_period) == (f"0.0.{period}.4.1.1.12.0.0.0.0.0.0.0.0.0.72.0", period)

    def test_rates_flows_and_phases(self) -> None:
        known = ReadingTypes()
        numbers = {code: known.of(code) for code in ("1-0:1.8.2", "1-0:2.8.13", "1-0:3.8.0", "1-0:52.7.0")}
        assert [(found.flow, found.rate, found.unit, found.phases) for found in numbers.values() if found] == [
            (1, 2, 72, 0),
            (19, 13, 72, 0),
            (2, 0, 73, 0),
            (0, 0, 29, 65),
        ]

    def test_kilo_is_for_energies_alone(self) -> None:
        found = [ReadingTypes().of(code, in_kilo=True) for code in ("1-0:1.8.0", "1-0:3.8.0", "1-0:1.7.0")]
        assert [one.multiplier for one in found if one] == [3, 3, 0]

    def test_a_site_has_its_own(self) -> None:
        own = "0.0.2.9.1.1.12.0.0.0.0.0.0.0.0.3.72.0"  # as TPC has it
        known = ReadingTypes({"1-0:1.8.0": own, "7-0:3.0.0": "0.0.0.1.1.7.58.0.0.0.0.0.0.0.0.0.42.0"})
        found = known.of("1-0:1.8.0", in_kilo=True)
        assert found is not None
        assert (found.text, found.multiplier) == (own, 3)
        assert known.of("7-0:3.0.0") is not None
        assert known.of("7-0:3.1.0") is None
        assert known.of("1-0:2.8.0") == ReadingTypes().of("1-0:2.8.0")

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ("1.2.3", "18 numbers with dots between them, not 3"),
            ("0.0.0.1.1.1.12.0.0.0.0.0.0.0.0.0.Wh.0", "part 17 of a ReadingType is a whole number, not 'Wh'"),
            ("mp.0.0.1.1.1.12.0.0.0.0.0.0.0.0.0.72.0", "part 1 "),
            ("0.0.x.1.1.1.12.0.0.0.0.0.0.0.0.0.72.0", "part 3 of a ReadingType is a whole number or mp"),
        ],
    )
    def test_what_is_no_reading_type(self, entry: str, said: str) -> None:
        with pytest.raises(ValueError, match=re.escape(said)):
            reading_types.check_entry(entry)

    def test_what_is_no_register(self) -> None:
        assert reading_types.check_code("1-0:1.8.x") == "1-0:1.8.x"
        with pytest.raises(ValueError, match="not an OBIS code"):
            reading_types.check_code("1.8.0")

    def test_the_shipped_ones_are_right_themselves(self) -> None:
        for code, entry in reading_types.SHIPPED.items():
            assert reading_types.check_code(code) == code
            assert reading_types.check_entry(entry) == entry


class TestQualities:
    def test_every_fact_has_codes_that_are_right_themselves(self) -> None:
        assert set(qualities.SHIPPED) == set(Fact)
        for quality in qualities.SHIPPED.values():
            assert qualities.parse_quality(qualities.written(quality))[:3] == quality[:3]

    def test_every_caveat_of_a_scheme_is_a_fact(self) -> None:
        found = {qualities.of_caveat(scheme.caveat) for scheme in SCHEMES}
        assert found == {
            Fact.AUTHENTIC,
            Fact.CARRIED_IN_CLEAR,
            Fact.TRUSTED_AT_CONCENTRATOR,
            Fact.UNAUTHENTICATED,
        }
        assert qualities.of_caveat("of a scheme that this release does not know") is Fact.UNKNOWN_PROTECTION

    def test_the_worst_fact_is_said_where_only_one_may_be(self) -> None:
        known = Qualities({Fact.PASSED: Quality("3.0.1", 19, "A04")})
        assert known.worst([Fact.AUTHENTIC, Fact.PASSED]).espi == 19
        assert known.worst([Fact.PASSED, Fact.MISSING]).nordic == "A02"
        assert known.worst([]).cim == "1.0.0"
        assert [fact for fact, _ in known.of([Fact.AUTHENTIC, Fact.FAILED])] == [Fact.FAILED, Fact.AUTHENTIC]

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ({"cim": "2.6", "espi": 1, "nordic": "A04"}, "cim: "),
            ({"cim": "2.6.0", "espi": True, "nordic": "A04"}, "espi: "),
            ({"cim": "2.6.0", "espi": 10, "nordic": "A07"}, "nordic: one of A01, A02"),
            ({}, "cim: "),
        ],
    )
    def test_what_is_wrong_is_named(self, value: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=re.escape(said)):
            qualities.parse_quality(value)


class TestEventCodes:
    def test_every_meaning_is_right_itself(self) -> None:
        for key, meaning in event_codes.SHIPPED.items():
            assert event_codes.parse_key(str(key)) == key
            assert event_codes.parse_meaning(event_codes.written(meaning)) == meaning._replace(is_verified=True)

    def test_codes_without_a_meaning_are_judged_by_their_log(self) -> None:
        known = EventCodes()
        assert known.meaning(FRAUD_LOG, 9999) == EventMeaning("code 9999", Severity.CRITICAL, is_verified=False)
        assert known.meaning(STANDARD_LOG, 9999).severity is Severity.INFO

    def test_outages(self) -> None:
        own = {
            CodeKey(STANDARD_LOG, 1): EventMeaning("ours", Severity.INFO),
            CodeKey(STANDARD_LOG, 300): EventMeaning("mains lost", Severity.WARNING, outage=Outage.BEGINS),
        }
        assert EventCodes().of_outage(Outage.BEGINS) == [(STANDARD_LOG, 1)]
        assert EventCodes(own).of_outage(Outage.BEGINS) == [(STANDARD_LOG, 300)]
        assert EventCodes(own).of_outage(Outage.ENDS) == [(STANDARD_LOG, 2)]

    def test_severities_divide_the_codes(self) -> None:
        known = EventCodes()
        assert CodeKey(FRAUD_LOG, 44) in known.at_least(Severity.CRITICAL)
        assert CodeKey(STANDARD_LOG, 7) not in known.at_least(Severity.CRITICAL)
        assert sorted(known.at_least(Severity.WARNING) + known.below(Severity.WARNING)) == sorted(known.meanings)

    @pytest.mark.parametrize("text", ["1", "0-0:96.11.0", "0-0:96.11.0/", "0-0:96.11.0/-1", "0-0:96.11.0/01", "x/1"])
    def test_what_is_no_code(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"write 0-0:96\.11\.0/CODE|a whole number"):
            event_codes.parse_key(text)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"name": " "}, "name: "),
            ({"name": "a\nb"}, "name: "),
            ({"severity": "fatal"}, "severity: one of info, warning, critical"),
            ({"type": "3.26.9"}, "type: "),
            ({"outage": "maybe"}, "outage: "),
        ],
    )
    def test_what_is_wrong_is_named(self, change: dict[str, Any], said: str) -> None:
        right = {"name": "power down", "severity": "warning", "type": "3.26.9.185", "outage": "begins"}
        with pytest.raises(ValueError, match=re.escape(said)):
            event_codes.parse_meaning({**right, **change})
