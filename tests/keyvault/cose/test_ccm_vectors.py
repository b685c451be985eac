"""NIST's CCM vectors through the cipher of a direction (provenance: vectors/README.md).

The AEAD inside DirectionCipher takes NIST's key, nonce, associated data and tag length as they are;
frames come on top in test_sealing.
"""

from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag

from keyvault.cose.algorithms import CCM
from keyvault.cose.kdf import TrafficKey
from keyvault.cose.sealing import DirectionCipher

FOLDER = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "CCM"
ALG_OF_SIZES = {(ccm.key_octets, ccm.tag_octets): alg for alg, ccm in CCM.items()}


def read_vectors(name: str) -> Iterator[dict[str, str]]:
    """The records of a CAVS response file, each with the parameters and the key or nonce it stands under."""
    shared: dict[str, str] = {}
    record: dict[str, str] = {}
    for line in [*(FOLDER / name).read_text().splitlines(), "Count = end"]:
        if not line.strip() or line.startswith("#"):
            continue
        for field in line.strip().strip("[]").split(", "):
            label, _, value = (part.strip() for part in field.partition("="))
            if label == "Count":
                if record:
                    yield shared | record
                record = {"Count": value}
            elif label in ("Alen", "Plen", "Nlen", "Tlen", "Key"):
                if record:
                    yield shared | record
                record = {}
                shared[label] = value
                if label == "Key":
                    shared.pop("Nonce", None)
            elif record:
                record[label] = value
            else:
                shared[label] = value


@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize("kind", ["DVPT", "VADT", "VNT", "VPT", "VTT"])
def test_nist_ccm(kind: str, bits: int) -> None:
    fitting = 0
    for vector in read_vectors(f"{kind}{bits}.rsp"):
        alg = ALG_OF_SIZES.get((bits // 8, int(vector["Tlen"])))
        if alg is None or vector["Nlen"] != "13":
            continue
        nonce = bytes.fromhex(vector["Nonce"])
        sealed = bytes.fromhex(vector["CT"])
        aad = bytes.fromhex(vector["Adata"]) if vector["Alen"] != "0" else b""
        # the nonce is Base IV XOR counter: split it so that _nonce has to put it together again
        counter = 0x0102030405
        base_iv = (int.from_bytes(nonce, "big") ^ counter).to_bytes(13, "big")
        cipher = DirectionCipher(TrafficKey(bytes.fromhex(vector["Key"]), base_iv), alg)
        assert cipher._nonce(counter) == nonce
        if vector.get("Result", "Pass").startswith("Fail"):
            with pytest.raises(InvalidTag):
                cipher._aead.decrypt(nonce, sealed, aad)
        else:
            plaintext = bytes.fromhex(vector["Payload"]) if vector["Plen"] != "0" else b""
            assert cipher._aead.decrypt(nonce, sealed, aad) == plaintext
            assert cipher._aead.encrypt(nonce, plaintext, aad) == sealed
        fitting += 1
    assert fitting >= 10
