"""A bare loop of dlms-cosem 21.3.2, run by a Python that has it and nothing of ours.

Reads {"guek", "gak", "frames"} in hexadecimal from standard input; writes the seconds of opening and decoding them all.
"""

import json
import sys
import time

from dlms_cosem.protocol.xdlms import DataNotification, GeneralGlobalCipher
from dlms_cosem.security import decrypt
from dlms_cosem.utils import parse_as_dlms_data


def main() -> None:
    said = json.load(sys.stdin)
    guek, gak = bytes.fromhex(said["guek"]), bytes.fromhex(said["gak"])
    frames = [bytes.fromhex(frame) for frame in said["frames"]]
    began = time.perf_counter()
    for frame in frames:
        apdu = GeneralGlobalCipher.from_bytes(frame)
        title, counter = bytes(apdu.system_title), apdu.invocation_counter
        plaintext = decrypt(apdu.security_control, title, counter, guek, apdu.ciphered_text, gak)
        parse_as_dlms_data(DataNotification.from_bytes(plaintext).body)
    sys.stdout.write(str(time.perf_counter() - began))


if __name__ == "__main__":
    main()
