"""The tables: key sources, envelopes, and schemes, their allowed triples with contents. Pure.

To add a member, add its module and its line here. Contents are known here only by name; ``meters.contents`` reads them.
The envelope of a frame is found by its first octets (``lines.Envelopes.of``), its scheme by its key
(``keyvault/ciphers``).
"""

from collections.abc import Mapping

from keyvault.cose.algorithms import Algorithm
from keyvault.cose.kdf import DEVICE_KEY_OCTETS
from keyvault.cose.structures import Frame
from keyvault.schemes.agreed import AGREED
from keyvault.schemes.ccm import CCM_ENVELOPE
from keyvault.schemes.derived import DERIVED
from keyvault.schemes.dlms import security
from keyvault.schemes.dlms.envelope import DLMS_ENVELOPE
from keyvault.schemes.lines import Envelopes, Scheme, Source, Table
from keyvault.schemes.mac import MAC_ENVELOPE
from keyvault.schemes.sealed import SEALED_ENVELOPE
from keyvault.schemes.session import SESSION_ENVELOPE
from keyvault.schemes.stored import STORED

SOURCES: Table[Source] = Table(STORED, DERIVED, AGREED)
ENVELOPES = Envelopes(CCM_ENVELOPE, SESSION_ENVELOPE, MAC_ENVELOPE, SEALED_ENVELOPE, DLMS_ENVELOPE)
_ANY_SOURCE = frozenset(source.name for source in SOURCES)
MASKED = "masked"  # the content of meters that hide what they measure


def _dlms(
    name: str, number: int, algorithms: Mapping[int, Algorithm], caveat: str = "", *, is_authenticated: bool = True
) -> Scheme:
    """A scheme of meters that push DLMS frames under one kind of security control."""
    return Scheme(
        name,
        number,
        DLMS_ENVELOPE.name,
        "push",
        frozenset({STORED.name}),
        caveat,
        tuple(algorithms),
        is_commanded=False,
        is_authenticated=is_authenticated,
    )


SCHEMES: Table[Scheme] = Table(
    Scheme("ccm", 0, CCM_ENVELOPE.name, "plain", _ANY_SOURCE),
    Scheme("session", 1, SESSION_ENVELOPE.name, "plain", _ANY_SOURCE),
    Scheme("mac", 2, MAC_ENVELOPE.name, "plain", _ANY_SOURCE, "carried in clear"),
    # Of a meter of scheme hop its events alone come in frames of its own: its concentrator reports what it measured.
    Scheme("hop", 3, CCM_ENVELOPE.name, "events", _ANY_SOURCE, "trusted at the concentrator"),
    Scheme("sealed", 4, SEALED_ENVELOPE.name, "plain", _ANY_SOURCE),
    Scheme("ccm + signed", 5, CCM_ENVELOPE.name, "signed", _ANY_SOURCE),
    Scheme("session + signed", 7, SESSION_ENVELOPE.name, "signed", _ANY_SOURCE),
    Scheme("sealed + signed", 8, SEALED_ENVELOPE.name, "signed", _ANY_SOURCE),
    Scheme("ccm + masked", 6, CCM_ENVELOPE.name, MASKED, _ANY_SOURCE),
    Scheme("session + masked", 9, SESSION_ENVELOPE.name, MASKED, _ANY_SOURCE),
    Scheme("sealed + masked", 10, SEALED_ENVELOPE.name, MASKED, _ANY_SOURCE),
    Scheme("mac + masked", 11, MAC_ENVELOPE.name, MASKED, _ANY_SOURCE, "events carried in clear"),
    _dlms("dlms", 12, security.PROTECTED),
    _dlms("dlms in clear", 13, security.IN_CLEAR, "carried in clear"),
    _dlms("dlms without tag", 14, security.UNAUTHENTICATED, "unauthenticated", is_authenticated=False),
    Scheme("concentrator", None, CCM_ENVELOPE.name, "report", frozenset({STORED.name, DERIVED.name})),
)
USUAL = "ccm"  # the scheme of keys that name none
HOP = "hop"  # the scheme of meters whose concentrator opens their frames
CONCENTRATOR = "concentrator"  # the scheme of keys under which a concentrator seals its reports


def schemes_of_content(content: str) -> list[Scheme]:
    """The schemes whose payloads are of that content."""
    return [one for one in SCHEMES if one.content == content]


# The numbers of schemes whose readings may have been changed on their way.
UNAUTHENTICATED = frozenset(one.number for one in SCHEMES if not one.is_authenticated)


class SchemeError(ValueError):
    """A scheme or algorithm that a key cannot have: the caller's mistake, named in the message."""


def scheme_choices() -> list[tuple[str, str]]:
    """The schemes that meters can be given, each as value and label of a choice."""
    return [(one.name, one.name) for one in SCHEMES if one.number is not None]


def new_scheme_choices() -> list[tuple[str, str]]:
    """The schemes that the head-end can give meters keys of, each as value and label of a choice."""
    return [(name, label) for name, label in scheme_choices() if SCHEMES[name].is_commanded]


def new_algorithm_choices() -> list[tuple[int, str]]:
    """The algorithms that keys which the head-end makes may be for, each as value and label of a choice."""
    envelopes = {one.envelope for one in SCHEMES if one.is_commanded}
    known = {alg for name in envelopes for alg in ENVELOPES[name].algorithms}
    return [(alg, label) for alg, label in algorithm_choices() if alg in known]


def algorithm_choices() -> list[tuple[int, str]]:
    """The algorithms that keys of any envelope may be for, each as value and label of a choice."""
    return list({alg: line.name for one in reversed(list(ENVELOPES)) for alg, line in one.algorithms.items()}.items())


def check_for_meters(scheme: str) -> None:
    """SchemeError where that is no scheme, or none that meters can be given."""
    line = SCHEMES.get(scheme)
    if line is None or line.number is None:
        raise SchemeError(f"scheme {scheme!r} is not one of {', '.join(name for name, _ in scheme_choices())}")


def check_for_commands(scheme: str) -> None:
    """SchemeError where meters of that scheme can be given no key by us: it comes in a shipment."""
    check_for_meters(scheme)
    if not SCHEMES[scheme].is_commanded:
        raise SchemeError(f"keys of scheme {scheme} come in a shipment (manage.py import_keys): none are made here")


def algorithms_of(scheme: str) -> Mapping[int, Algorithm]:
    """The algorithms that keys of a scheme may be for, the usual one first; SchemeError where there is no such scheme.

    That of concentrators counts, too.
    """
    if scheme != CONCENTRATOR:
        check_for_meters(scheme)
    line = SCHEMES[scheme]
    algorithms = ENVELOPES[line.envelope].algorithms
    return {alg: algorithms[alg] for alg in line.algorithms} if line.algorithms else algorithms


def has_key_sets(scheme: str) -> bool:
    """Whether device keys of a scheme are sets of keys of another protocol."""
    line = SCHEMES.get(scheme)
    return line is not None and ENVELOPES[line.envelope].has_key_sets


def key_octets_of(scheme: str, algorithm: int, *, is_transfer: bool = False) -> int:
    """How many octets a device key of a scheme and algorithm has: 32, or those of a key set.

    ``is_transfer``: that of epoch 0; the one beside key sets is as long as each of a set's two keys.
    """
    if not has_key_sets(scheme):
        return DEVICE_KEY_OCTETS
    octets = ENVELOPES[SCHEMES[scheme].envelope].algorithms[algorithm].key_octets
    return octets // 2 if is_transfer else octets


def algorithm_for(scheme: str, algorithm: int | None = None) -> int:
    """The algorithm of a key of a scheme: the one that is asked for, or the scheme's usual one; SchemeError."""
    algorithms = algorithms_of(scheme)
    if algorithm is None:
        return next(iter(algorithms))
    if algorithm not in algorithms:
        names = ", ".join(f"{line.name} ({alg})" for alg, line in algorithms.items())
        raise SchemeError(f"scheme {scheme} has no keys for {algorithm_name(algorithm)} ({algorithm}), but for {names}")
    return algorithm


def scheme_numbered(number: int | None) -> Scheme:
    """The scheme of a reading, by its number; None stands for the usual one. One of that number where none is known."""
    if number is None:
        return SCHEMES[USUAL]
    unknown = Scheme(f"scheme {number}", number, "", "", frozenset(), "of a scheme that this release does not know")
    return next((one for one in SCHEMES if one.number == number), unknown)


def needs_agreement_key(scheme: str) -> bool:
    """Whether frames of a scheme are sealed to the head-end's agreement key, whatever their device key comes from."""
    line = SCHEMES.get(scheme)
    return line is not None and ENVELOPES[line.envelope].is_to_agreement_key


def algorithm_name(alg: int) -> str:
    """The name of an algorithm that keys of any envelope may be provisioned for; its number where there is none."""
    return next((one.algorithms[alg].name for one in ENVELOPES if alg in one.algorithms), f"algorithm {alg}")


def parse_frame(octets: bytes) -> Frame:
    """Parse a frame of any envelope; nothing in it is authentic. MalformedError if it is no frame.

    Its first octets tell the envelope (``lines.Envelopes.of``).
    """
    return ENVELOPES.of(octets).parse(octets)
