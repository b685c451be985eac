"""The tables: key sources, envelopes, and schemes, their allowed triples with contents. Pure.

A member is added by its module and its lines here. Contents are known here by their names alone: what they say is
read above, by ``meters.contents``.
"""

from keyvault.cose.structures import Frame
from keyvault.schemes.ccm import CCM_ENVELOPE
from keyvault.schemes.derived import DERIVED
from keyvault.schemes.lines import Envelopes, Scheme, Source, Table
from keyvault.schemes.stored import STORED

SOURCES: Table[Source] = Table(STORED, DERIVED)
ENVELOPES = Envelopes(CCM_ENVELOPE)
SCHEMES: Table[Scheme] = Table(
    Scheme("ccm", 0, CCM_ENVELOPE.name, "plain", frozenset({STORED.name, DERIVED.name})),
)
USUAL = "ccm"  # the scheme of a key that is provisioned for no other


def algorithm_name(alg: int) -> str:
    """The name of an algorithm that keys of any envelope may be provisioned for; its number where there is none."""
    return next((one.algorithms[alg].name for one in ENVELOPES if alg in one.algorithms), f"algorithm {alg}")


def parse_frame(octets: bytes) -> Frame:
    """Take a frame of any envelope apart; nothing in it is authentic. MalformedError where it is none."""
    return ENVELOPES.of(octets).parse(octets)
