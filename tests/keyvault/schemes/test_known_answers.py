"""Known answers of docs/schemes.md, to the octet.

Each was computed by two independent programs before this code was written, and by none of it.
"""

import pytest

from keyvault.cose.hpke import PskParty
from keyvault.cose.kdf import hop_key, hop_mac_key, uplink_key, uplink_secret
from keyvault.cose.structures import make_kid
from keyvault.schemes.hop import hop_cipher
from keyvault.schemes.hop_tag import HopTagKey, parse_tagged
from keyvault.schemes.mac import MacCipher, parse_mac
from keyvault.schemes.sealed import SealedCipher, SealedSealer, parse_sealed
from keyvault.schemes.session import SessionSealer, kid_context, parse_session, session_cipher
from tests.builders import KNOWN_COUNTER, KNOWN_KEY, KNOWN_TIME_S, KNOWN_TITLE, seal_frame
from tests.keyvault.schemes.forms import EPHEMERAL, HEAD_END, HEAD_END_PUBLIC, PAYLOAD

KID = make_kid(KNOWN_TITLE, 1)
CONCENTRATOR = bytes.fromhex("0024befffe00c001")
CONTEXT = bytes.fromhex("6955b900a0a1a2a3a4a5a6a7")


class TestSession:
    @pytest.mark.parametrize(
        ("context", "key", "base_iv", "counter", "ciphertext"),
        [
            (
                "6955b900a0a1a2a3a4a5a6a7",
                "93cfb61cc8616b01ba465989bc353537",
                "40ae083eda3df3f2cbe7b45cae",
                0,
                (
                    "aa5b10ea7ee19f9fa532fcc90f07d360d7ba59da19894796d16892777a6443a630848746b31b4cde0d130e4bd53748615ee39ab3603f3e69"
                    "9513e561"
                ),
            ),
            (
                "6955b900a0a1a2a3a4a5a6a7",
                "93cfb61cc8616b01ba465989bc353537",
                "40ae083eda3df3f2cbe7b45cae",
                1,
                (
                    "035236bf5ecd2ee0f6323d1aa61e6fafa1fa16a273510ac7b1f54c1edd975804d209b1bf7264f4e827173e473e681004aa4a1001b2038d69"
                    "0793912e"
                ),
            ),
            (
                "6955b901b0b1b2b3b4b5b6b7",
                "b4df5ce15912944454dcda0a971f9ddc",
                "6974c1d8777dde86471f78c3d1",
                0,
                (
                    "eca36a3b615920dd84d7162cd73ffe1b70143943c6807dc74317b627cd719dd03a9091a9c54261432c430f6af8d64d6b6ca47a9e7067cd73"
                    "32310570"
                ),
            ),
        ],
    )
    def test_sessions(self, context: str, key: str, base_iv: str, counter: int, ciphertext: str) -> None:
        salt = bytes.fromhex(context)
        keys = uplink_key(KNOWN_KEY, KNOWN_TITLE, 1, 10, salt)
        assert (keys.key.hex(), keys.base_iv.hex()) == (key, base_iv)
        frame = parse_session(SessionSealer(KNOWN_KEY, KNOWN_TITLE, 1, 10, salt).seal_as(counter, PAYLOAD))
        assert frame.ciphertext.hex() == ciphertext
        assert session_cipher(KNOWN_KEY, KNOWN_TITLE, 1, 10, salt).open_(frame) == PAYLOAD

    def test_frame(self) -> None:
        sealer = SessionSealer(KNOWN_KEY, KNOWN_TITLE, 1, 10, kid_context(KNOWN_TIME_S, bytes(range(0xA0, 0xA8))))
        octets = sealer.seal(PAYLOAD)
        assert octets.hex() == (
            "d0835820a4010a044a0024befffe804ff100010641000a4c6955b900a0a1a2a3a4a5a6a7a0583caa5b10ea7ee19f9fa532fcc90f07d360"
            "d7ba59da19894796d16892777a6443a630848746b31b4cde0d130e4bd53748615ee39ab3603f3e699513e561"
        )
        assert parse_session(octets).kid == KID + CONTEXT
        assert (parse_session(octets).counter, parse_session(sealer.seal(PAYLOAD)).counter) == (0, 1)


class TestMac:
    @pytest.mark.parametrize(
        ("alg", "key", "start", "tag"),
        [
            (
                4,
                "abcb27ef9e75c3f6baa0d28d650ef5b1b75da6858f64262dda2b1fcd19c63676",
                "d18453a30104044a0024befffe804ff10001064261a7a05834",
                "48de4b5e97e82da854",
            ),
            (
                5,
                "5b4a15d9a85c2e5e2e99bdf2ac64d4908fd397d620f10e38d791de4f027f7624",
                "d18453a30105044a0024befffe804ff10001064261a7a05834",
                "5820a061348c63ad18ae36f396340331c6b4ca480faecdf0f16149df54a5113e1a87",
            ),
        ],
    )
    def test_frame(self, alg: int, key: str, start: str, tag: str) -> None:
        assert uplink_secret(KNOWN_KEY, KNOWN_TITLE, 1, alg).hex() == key
        cipher = MacCipher(KNOWN_KEY, KNOWN_TITLE, 1, alg)
        octets = bytes.fromhex(start) + PAYLOAD + bytes.fromhex(tag)
        assert cipher.seal(KID, KNOWN_COUNTER, PAYLOAD) == octets
        frame = parse_mac(octets)
        assert (frame.kid, frame.alg, frame.counter) == (KID, alg, KNOWN_COUNTER)
        assert cipher.open_(frame) == PAYLOAD


class TestHop:
    def test_tag(self) -> None:
        key = hop_mac_key(KNOWN_KEY, KNOWN_TITLE, 1, CONCENTRATOR)
        assert key.hex() == "3cb9bae7011ce6a91fd2103949eb3ed79b5732cb340d46b655b14b828ea59f6d"
        inside = seal_frame(KNOWN_TITLE, 1, KNOWN_KEY, KNOWN_COUNTER, PAYLOAD)
        octets = HopTagKey.of_device(KNOWN_KEY, KNOWN_TITLE, 1, CONCENTRATOR).seal_tag(inside)
        start = bytes.fromhex("d1844fa20104044a0024befffe804ff10001a05855")
        assert octets == start + inside + bytes.fromhex("48378427faae7046b4")
        assert HopTagKey(key, KID).check_tag(parse_tagged(octets)) == inside

    def test_frame(self) -> None:
        keys = hop_key(KNOWN_KEY, KNOWN_TITLE, 1, 10, CONCENTRATOR)
        assert keys.key.hex() == "219e0dbbb9ddeeb284539b49adbd0c27"
        assert keys.base_iv.hex() == "925a7ad9a995a5f7830bb372a5"
        octets = hop_cipher(KNOWN_KEY, KNOWN_TITLE, 1, 10, CONCENTRATOR).seal(KID, KNOWN_COUNTER, PAYLOAD)
        assert octets.hex() == (
            "d08353a3010a044a0024befffe804ff10001064261a7a0583cbbc413fd54b1a44b8636e0aed7281acf6daa4d81db12ba0e6498f27b38df"
            "d3761f0ba15fd537fc2b452cabeb0b94c8d55f39f921837ae3d6b89d5151"
        )


class TestSealed:
    def test_keys(self) -> None:
        psk = uplink_secret(KNOWN_KEY, KNOWN_TITLE, 1, -65537)
        assert psk.hex() == "cac688762d7fbbbf2102569a4e60f2e8c26843db6e53c858a35a45ba52bfb351"
        enc = EPHEMERAL.public_key().public_bytes_raw()
        protected = bytes.fromhex("a3013a00010000044a0024befffe804ff10001064261a7")
        info = b"\x82\x72ami-headend sealed\x57" + protected
        key, nonce = PskParty(psk, KID, HEAD_END_PUBLIC).schedule(EPHEMERAL.exchange(HEAD_END.public_key()), enc, info)
        assert (key.hex(), nonce.hex()) == ("13eb0c169e3864237767c6e02082b5b0", "e6cc6b7f10f5452616bbcb2f")

    def test_frame(self) -> None:
        sealer = SealedSealer(KNOWN_KEY, KNOWN_TITLE, 1, HEAD_END_PUBLIC)
        octets = sealer.seal(KNOWN_COUNTER, PAYLOAD, EPHEMERAL)
        assert octets.hex() == (
            "d08357a3013a00010000044a0024befffe804ff10001064261a7a1235820dc2cca31e8e43bbd91dff7e475cca3347eb478107d5bd765ab"
            "a4ae4a30c35d445844cda676d4063d099dfffd092da3bac75c9eeae41692aa2af7ed3fcca54b7961142aae14b40c16bf311af702dcad2a"
            "6d23f297b049fe30e706cb8af834560e7314c506d25f"
        )
        frame = parse_sealed(octets)
        assert (frame.kid, frame.alg, frame.counter) == (KID, -65537, KNOWN_COUNTER)
        assert SealedCipher(KNOWN_KEY, KNOWN_TITLE, 1, HEAD_END).open_(frame) == PAYLOAD
        again = parse_sealed(sealer.seal(KNOWN_COUNTER, PAYLOAD))
        assert again.ciphertext != frame.ciphertext
        assert SealedCipher(KNOWN_KEY, KNOWN_TITLE, 1, HEAD_END).open_(again) == PAYLOAD
