"""The tables of schemes: which envelope a frame begins like, and that the lines of all tables fit together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.models import KeySource
from keyvault.schemes.lines import Envelopes, Starts
from keyvault.schemes.table import (
    ENVELOPES,
    SCHEMES,
    SOURCES,
    USUAL,
    SchemeError,
    algorithm_choices,
    algorithm_for,
    algorithm_name,
    scheme_choices,
)
from meters.contents.table import CONTENTS
from tests.toy_schemes import toys

CCM = ENVELOPES["ccm"]
SHORT = CCM._replace(name="short", first_octets=(b"\xd1", b"\x7e"))
LONG = CCM._replace(name="long", first_octets=(b"\xd0\x83\x58", b"\xd1\x84\x01\x02"))
THREE = Envelopes(CCM, SHORT, LONG)


@given(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xd0\x83\x58", b"\xd1\x84\x01\x02", b"\x7e"])))
def test_the_longest_claim_decides(octets: bytes) -> None:
    claims = [
        (len(first), envelope.name) for envelope in THREE for first in envelope.first_octets if octets.startswith(first)
    ]
    assert THREE.of(octets).name == max(claims, default=(0, "ccm"))[1]


def test_two_that_claim_the_same_octets_are_refused_and_nothing_stays() -> None:
    table = Envelopes(CCM, SHORT)
    with pytest.raises(ValueError, match="ccm, short, other claim frames that begin with the same octets"):
        table.including(CCM._replace(name="other", first_octets=(b"\x7e",))).__enter__()
    assert [line.name for line in table] == ["ccm", "short"]
    assert table.of(b"\x7e").name == "short"


def test_a_line_is_there_as_long_as_the_block_runs() -> None:
    table = Envelopes(CCM)
    with table.including(LONG):
        assert table.of(b"\xd0\x83\x58").name == "long"
    assert table.get("long") is None
    assert table.of(b"\xd0\x83\x58").name == "ccm"


def test_what_anybody_may_send_is_kept_bounded() -> None:
    for n in range(2 * Starts._KEPT_AT_MOST):
        assert THREE.of(n.to_bytes(4, "big")).name == "ccm"
    assert len(THREE.starts) == Starts._KEPT_AT_MOST
    assert THREE.of(b"\x7e").name == "short"


def test_every_scheme_is_a_triple_of_the_tables() -> None:
    for scheme in SCHEMES:
        assert ENVELOPES.get(scheme.envelope) is not None
        assert CONTENTS.get(scheme.content) is not None
        assert {source.name for source in SOURCES} >= scheme.sources
    assert SCHEMES.get(USUAL) is not None


def test_the_database_knows_the_key_sources() -> None:
    assert {source.name for source in SOURCES} == set(KeySource.values)


def test_schemes_with_a_number_are_offered_with_their_algorithms() -> None:
    with toys(), SCHEMES.including(SCHEMES[USUAL]._replace(name="no meter's", number=None)):
        assert [name for name, _ in scheme_choices()][-3:] == ["toy", "toy title", "ccm + toy"]
        assert dict(algorithm_choices())[10] == "AES-CCM-16-64-128"  # told by the first envelope that has it
        assert (algorithm_for("ccm"), algorithm_for("ccm", 11), algorithm_for("toy", 9)) == (10, 11, 9)
        for scheme, algorithm, why in (
            ("no meter's", None, 'scheme "no meter\'s" is not one of ccm'),
            ("of old", 10, "scheme 'of old' is not one of ccm"),
            ("ccm", 9, "scheme ccm has no keys for toy 9 .9., but for AES-CCM-16-64-128 .10., AES-CCM-16-64-256 .11."),
        ):
            with pytest.raises(SchemeError, match=why):
                algorithm_for(scheme, algorithm)


def test_numbers_of_schemes_are_their_own() -> None:
    numbers = [scheme.number for scheme in SCHEMES if scheme.number is not None]
    assert len(numbers) == len(set(numbers))
    assert SCHEMES[USUAL].number == 0


def test_an_algorithm_that_no_envelope_has_is_told_by_its_number() -> None:
    assert (algorithm_name(11), algorithm_name(99)) == ("AES-CCM-16-64-256", "algorithm 99")
