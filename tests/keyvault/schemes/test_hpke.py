"""HPKE in mode_psk: the vectors of RFC 9180, which PyPI's cryptography-vectors carries, and pyhpke as an oracle."""

import json
import secrets
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from keyvault.cose.hpke import PskParty, open_psk, seal_psk
from keyvault.cose.sealing import TagInvalidError

_PSK_MODE, _X25519, _HKDF_SHA256, _AES_128_GCM = 1, 0x20, 1, 1
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES128_GCM)


def _vector() -> dict[str, Any]:
    """RFC 9180 appendix A.1.2."""
    with cryptography_vectors.open_vector_file("HPKE/test-vectors.json", "r") as file:
        (found,) = (
            one
            for one in json.load(file)
            if (one["mode"], one["kem_id"], one["kdf_id"], one["aead_id"])
            == (_PSK_MODE, _X25519, _HKDF_SHA256, _AES_128_GCM)
        )
    return dict(found)


def test_rfc_9180() -> None:
    vector = {name: bytes.fromhex(value) for name, value in _vector().items() if isinstance(value, str)}
    first = {name: bytes.fromhex(value) for name, value in _vector()["encryptions"][0].items()}
    private = X25519PrivateKey.from_private_bytes(vector["skRm"])
    ephemeral = X25519PrivateKey.from_private_bytes(vector["skEm"])
    party = PskParty(vector["psk"], vector["psk_id"], vector["pkRm"])
    dh = private.exchange(X25519PublicKey.from_public_bytes(vector["enc"]))
    assert party.schedule(dh, vector["enc"], vector["info"]) == (vector["key"], vector["base_nonce"])
    sealed = seal_psk(party, private.public_key(), ephemeral, first["pt"], vector["info"], first["aad"])
    assert sealed == (vector["enc"], first["ct"])
    assert open_psk(party, private, vector["enc"], first["ct"], vector["info"], first["aad"]) == first["pt"]


@settings(max_examples=20)
@given(
    psk=st.binary(min_size=32, max_size=64),
    psk_id=st.binary(min_size=1, max_size=40),
    info=st.binary(max_size=100),
    aad=st.binary(max_size=100),
    plaintext=st.binary(max_size=300),
)
def test_what_another_library_seals_and_opens(
    psk: bytes, psk_id: bytes, info: bytes, aad: bytes, plaintext: bytes
) -> None:
    private = X25519PrivateKey.generate()
    party = PskParty(psk, psk_id, private.public_key().public_bytes_raw())
    theirs = KEMKey.from_pyca_cryptography_key(private)
    enc, context = SUITE.create_sender_context(
        KEMKey.from_pyca_cryptography_key(private.public_key()), info=info, psk=psk, psk_id=psk_id
    )
    assert open_psk(party, private, enc, context.seal(plaintext, aad), info, aad) == plaintext
    enc, sealed = seal_psk(party, private.public_key(), X25519PrivateKey.generate(), plaintext, info, aad)
    recipient = SUITE.create_recipient_context(enc, theirs, info=info, psk=psk, psk_id=psk_id)
    assert recipient.open(sealed, aad) == plaintext


@pytest.mark.parametrize("changed", ["psk", "psk_id", "info", "aad", "enc", "private"])
def test_everything_is_bound(changed: str) -> None:
    private = X25519PrivateKey.generate()
    public = private.public_key()
    said = {name: secrets.token_bytes(32) for name in ("psk", "psk_id", "info", "aad")}
    party = PskParty(said["psk"], said["psk_id"], public.public_bytes_raw())
    said["enc"], sealed = seal_psk(party, public, X25519PrivateKey.generate(), b"112 Wh", said["info"], said["aad"])
    if changed == "private":
        private = X25519PrivateKey.generate()
    else:
        said[changed] = secrets.token_bytes(32)
    other = PskParty(said["psk"], said["psk_id"], public.public_bytes_raw())
    with pytest.raises(TagInvalidError):
        open_psk(other, private, said["enc"], sealed, said["info"], said["aad"])
