# SPDX-License-Identifier: Apache-2.0
"""A concentrator for one meter: carries its frames to the head-end, and commands to it. Python 3 alone.

    manage.py bench_meter 0024befffe804ff1 --concentrator LAB-1 --json > keys.json
    TOKEN=... python3 host/concentrator.py --keys keys.json --meter build/meter --url http://localhost:8000

It makes the meter of the keys when its memory file is not there yet, which then has measured for two hours already;
gives it the time, energy, and an event every 100 seconds. Put a link to your own meter in the place of the class Meter.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

SCHEMES = {"ccm": "0", "session": "1", "mac": "2"}
EVENT_EVERY_S = 100
RETRY_S = 5


def head(major, number):
    """The head of a CBOR item."""
    for info, octets in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 24:
            return bytes((major << 5 | number,))
        if number < 1 << 8 * octets:
            return bytes((major << 5 | info,)) + number.to_bytes(octets, "big")
    raise ValueError(number)


def read_offers(body):
    """The [number, system title, octets] of an answer to GET /api/v1/commands."""
    at, found = 0, []

    def item():
        nonlocal at
        major, info = body[at] >> 5, body[at] & 31
        at += 1
        octets = 0 if info < 24 else 1 << (info - 24)
        value = int.from_bytes(body[at : at + octets], "big") if octets else info
        at += octets
        if major != 2:
            return value
        at += value
        return body[at - value : at]

    while at < len(body):
        item()  # the head of an array of three
        found.append((item(), item(), item()))
    return found


class Meter:
    """The reference meter as a program beside this one."""

    def __init__(self, program, keys, memory, speed, lived_s):
        is_new = not memory.exists()
        if is_new:
            words = [keys["system_title"], SCHEMES[keys["scheme"]], str(keys["alg"]), keys["device_key"]]
            words += [str(keys["transfer_alg"]), keys["transfer_key"], str(keys["interval_minutes"])]
            subprocess.run([program, memory, "make", *words], check=True)
        self._process = subprocess.Popen(
            [program, memory, str(speed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._live(lived_s) if is_new else []
        self.tell(f"clock {int(time.time())}")

    def _live(self, seconds):
        """The frames of a meter that has been measuring for that long."""
        frames = self.tell(f"clock {int(time.time()) - seconds}")
        for _ in range(seconds // 60):
            frames += self.tell("pulse 3") + self.tell("seconds 60")
        return frames

    def tell(self, line):
        """Write a line; the frames that the meter sends then."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        frames = []
        while (answer := self._process.stdout.readline().strip()) != "ok":
            if not answer:
                sys.exit(f"the meter ended with exit status {self._process.wait()}")
            word, rest = answer.split(" ")
            if word == "frame":
                frames.append(bytes.fromhex(rest))
        return frames

    def close(self):
        """Cut its power."""
        self._process.stdin.close()
        self._process.wait()


class HeadEnd:
    """The head-end's HTTP."""

    def __init__(self, url, token):
        self._url, self._token = url, token

    def ask(self, path, body=None, kind="application/cbor-seq"):
        """The body of an answer; keeps on trying while the head-end is away or busy."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        request = urllib.request.Request(f"{self._url}/api/v1/{path}", body, headers)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503):
                    sys.exit(f"{request.full_url} answers {error.code}: {error.read().decode(errors='replace')}")
                time.sleep(float(error.headers.get("Retry-After") or RETRY_S))
            except OSError as error:
                print(f"no answer from {request.full_url}, trying again: {error}", file=sys.stderr)
                time.sleep(RETRY_S)

    def post(self, frames):
        """Frames stay until this returns: then the head-end has them."""
        if frames:
            self.ask("uplinks", b"".join(head(2, len(one)) + one for one in frames))

    def commands(self):
        """What waits for the meters of this concentrator."""
        return read_offers(self.ask("commands"))

    def delivered(self, number):
        """Say that a command was passed on."""
        self.ask(f"commands/{number}/receipt", b'{"result": "delivered"}', "application/json")


def carry(meter, title, head_end, offers, every_s):
    """Carry frames and commands for ever. Commands for other meters are neither passed on nor acknowledged."""
    last, event_at = time.time(), 0.0
    head_end.post(meter.first)
    while True:
        seconds = int(time.time() - last)
        last += seconds
        frames = meter.tell("pulse 1") + meter.tell(f"seconds {seconds}")
        if time.time() >= event_at:
            event_at = time.time() + EVENT_EVERY_S
            frames += meter.tell("event 1")
        head_end.post(frames)
        for number, whose, octets in offers:
            if whose != title:
                print(f"command {number} is for meter {whose.hex()}, which is not here", file=sys.stderr)
                continue
            frames = meter.tell(f"command {octets.hex()}")
            head_end.delivered(number)
            head_end.post(frames)
        time.sleep(every_s)
        offers = head_end.commands()


def main():
    """Read the words of the command line, and carry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--keys", type=Path, required=True, help="what bench_meter --json printed")
    parser.add_argument("--meter", required=True, help="the program of the meter: build/meter")
    parser.add_argument("--url", default="http://localhost:8000", help="of the head-end (%(default)s)")
    parser.add_argument("--memory", type=Path, help="its non-volatile memory (SYSTEM-TITLE.nv)")
    parser.add_argument("--every", type=float, default=2, metavar="S", help="seconds between requests for commands")
    parser.add_argument("--speed", type=int, default=1, help="how much faster its running time goes than its clock")
    parser.add_argument("--lived", type=int, default=7200, metavar="S", help="how long a new meter has been measuring")
    words = parser.parse_args()
    if not os.environ.get("TOKEN"):
        parser.error("set TOKEN to what manage.py concentrator token printed")
    keys = json.loads(words.keys.read_text())
    memory = words.memory or Path(f"{keys['system_title']}.nv")
    head_end = HeadEnd(words.url.rstrip("/"), os.environ["TOKEN"])
    offers = head_end.commands()  # address and token are right: else the first frames of a new meter would be lost
    meter = Meter(words.meter, keys, memory, words.speed, words.lived)
    print(f"Meter {keys['system_title']} lives in {memory}, its head-end is {words.url}. Ctrl-C stops it.", flush=True)
    try:
        carry(meter, bytes.fromhex(keys["system_title"]), head_end, offers, words.every)
    except KeyboardInterrupt:
        meter.close()


if __name__ == "__main__":
    main()
