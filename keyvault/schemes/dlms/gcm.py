"""AES-GCM as DLMS uses it (NIST SP 800-38D; Green Book Ed. 8 section 9.2.7): opening, and sealing for a meter. Pure.

The library refuses tags of 12 octets, so a kept object encrypts twice: the ciphertext, which gives the plaintext, and
that again, which gives the tag. The plaintext leaves only after the tag was compared.
"""

from hmac import compare_digest
from struct import Struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.cose.sealing import TagInvalidError
from keyvault.cose.structures import Frame
from keyvault.schemes.dlms.notification import is_whole
from keyvault.schemes.dlms.security import TAG_OCTETS, is_authenticated, is_encrypted

_iv = Struct(">8sI").pack  # system title, invocation counter
_LIBRARY_TAG_OCTETS = 16
_TAG_END = TAG_OCTETS - _LIBRARY_TAG_OCTETS  # of what the library gives
# Slices are kept: making one takes as long as cutting by it.
_TAG, _BEFORE_TAG = slice(-TAG_OCTETS, None), slice(-TAG_OCTETS)
_LIBRARY_TEXT, _LIBRARY_TAG = slice(-_LIBRARY_TAG_OCTETS), slice(-_LIBRARY_TAG_OCTETS, _TAG_END)
_BOTH_TAGS = slice(-TAG_OCTETS - _LIBRARY_TAG_OCTETS)  # where ciphertext and tag were encrypted: what is before them


class GcmCipher:
    """Opens the frames of one key set (GUEK || GAK, 32 octets, or 64 in suite 2) and one SC. Holds no printable key."""

    __slots__ = ("_aad", "_control", "_encrypt", "_is_authenticated", "_is_encrypted", "_usual_aad")

    def __init__(self, key_set: bytes, control: int) -> None:
        half = len(key_set) // 2
        self._encrypt = AESGCM(key_set[:half]).encrypt
        self._aad = key_set[half:]
        self._control = control
        self._usual_aad = bytes((control,)) + self._aad
        self._is_authenticated, self._is_encrypted = is_authenticated(control), is_encrypted(control)

    def __reduce__(self) -> str:
        raise TypeError("a cipher holds key octets and is never pickled")

    def open_(self, frame: Frame) -> bytes:
        """The APDU inside of a frame whose SC the caller has compared; TagInvalidError: never an oracle of why.

        Without authentication there is no tag: then what comes out must be one whole notification.
        """
        title, _, counter, protected, said = frame
        iv = _iv(title, counter)
        encrypt = self._encrypt
        if not self._is_authenticated:
            plaintext = encrypt(iv, said, None)[_LIBRARY_TEXT]
            if not is_whole(plaintext):
                raise TagInvalidError
            return plaintext
        aad = self._usual_aad if len(protected) == 1 else protected[:1] + self._aad + protected[1:]
        if self._is_encrypted:
            plaintext = encrypt(iv, said, None)[_BOTH_TAGS]
            right = encrypt(iv, plaintext, aad)[_LIBRARY_TAG]
        else:
            plaintext = said[_BEFORE_TAG]
            right = encrypt(iv, b"", aad + plaintext)[_LIBRARY_TAG]
        if not compare_digest(said[_TAG], right):
            raise TagInvalidError
        return plaintext

    def seal(self, title: bytes, counter: int, apdu: bytes, authenticated: bytes = b"") -> bytes:
        """SC || IC || ciphertext [|| tag] around an APDU; the caller never repeats a ``counter`` (0..2^32-1)."""
        iv = _iv(title, counter)
        head = bytes((self._control,)) + iv[8:]
        aad = self._usual_aad + authenticated
        if not self._is_authenticated:
            return head + self._encrypt(iv, apdu, None)[:-_LIBRARY_TAG_OCTETS]
        if self._is_encrypted:
            return head + self._encrypt(iv, apdu, aad)[:_TAG_END]
        return head + apdu + self._encrypt(iv, b"", aad + apdu)[:TAG_OCTETS]
