"""The security control octet (SC), and the algorithms of keys that it stands for. Pure.

A key set is registered for one SC, and so is its meter: what says another one is refused before a key is tried.
Bits 3 to 0 are the suite, 10 authentication, 20 encryption, 40 the broadcast key set, 80 compression
(Green Book Ed. 8 section 9.2.7.2.4).
"""

from keyvault.cose.algorithms import Algorithm

AUTHENTICATION, ENCRYPTION = 0x10, 0x20
TAG_OCTETS = 12  # in all suites
IV_OCTETS = 12  # title (8) and invocation counter (4)
LAST_COUNTER = 2**32 - 1  # then the key is used up
_SUITE = 0x0F
_KEY_OCTETS = {0: 16, 1: 16, 2: 32}  # AES-128, AES-128, AES-256
_GENERAL = 0x100  # general-ciphering, which authenticates more
_FIRST = -65600  # for private use (RFC 9052 section 16.4): minus the SC


def algorithm_of(control: int, *, is_general: bool = False) -> int:
    """The number of the algorithm that a key is registered for whose frames say an SC."""
    return _FIRST - control - _GENERAL * is_general


def control_of(algorithm: int) -> int:
    """The SC of an algorithm; inverse of ``algorithm_of``."""
    return (_FIRST - algorithm) & 0xFF


def is_authenticated(control: int) -> bool:
    return bool(control & AUTHENTICATION)


def is_encrypted(control: int) -> bool:
    return bool(control & ENCRYPTION)


def key_octets(control: int) -> int:
    """How long GUEK and GAK of an SC's suite are, each."""
    return _KEY_OCTETS[control & _SUITE]


def _algorithm(control: int, *, is_general: bool) -> Algorithm:
    what = "general ciphering" if is_general else "SC"
    tag = TAG_OCTETS * is_authenticated(control)
    return Algorithm(f"DLMS {what} {control:02x}", 2 * key_octets(control), tag, IV_OCTETS)


def _algorithms(policy: int, *, with_general: bool = True) -> dict[int, Algorithm]:
    return {
        algorithm_of(policy | suite, is_general=is_general): _algorithm(policy | suite, is_general=is_general)
        for is_general in ((False, True) if with_general else (False,))
        for suite in _KEY_OCTETS
    }


# By what they protect. SC 20 of general-ciphering would leave its fields to anybody: there is none.
PROTECTED = _algorithms(AUTHENTICATION | ENCRYPTION)
IN_CLEAR = _algorithms(AUTHENTICATION)
UNAUTHENTICATED = _algorithms(ENCRYPTION, with_general=False)
ALGORITHMS: dict[int, Algorithm] = PROTECTED | IN_CLEAR | UNAUTHENTICATED
