"""A bare loop of dlms-cosem 21.3.2, run by a Python that has it and nothing of ours.

Reads {"guek", "gak", "frames"} in hexadecimal, and "passes", from standard input; writes the seconds of CPU of the
fastest pass of opening and decoding all frames.
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
    best_s = float("inf")
    for _ in range(said["passes"]):
        began = time.process_time()
        for frame in frames:
            apdu = GeneralGlobalCipher.from_bytes(frame)
            title, counter = bytes(apdu.system_title), apdu.invocation_counter
            plaintext = decrypt(apdu.security_control, title, counter, guek, apdu.ciphered_text, gak)
            parse_as_dlms_data(DataNotification.from_bytes(plaintext).body)
        best_s = min(best_s, time.process_time() - began)
    sys.stdout.write(str(best_s))


if __name__ == "__main__":
    main()
