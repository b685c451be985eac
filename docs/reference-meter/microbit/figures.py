# SPDX-License-Identifier: Apache-2.0
"""The figures of a run on the emulated microcontroller, as JSON: figures.py BUILD > m0.json (`make m0` does so)."""

import json
import subprocess
import sys
from pathlib import Path

HOW = (
    "QEMU -M microbit -icount shift=6: each instruction takes 64 ns of its clock, SysTick counts that at 16 MHz. The "
    "difference of two readings gives the instructions, exact to ten (calibration-4000 should say 4000). They are "
    "instructions, not cycles: on a Cortex-M0+ loads, stores and taken branches take two."
)


def said(*command):
    """What a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    """Write the figures of the meter, or with a second word `asymmetric` those of asymmetric cryptography."""
    build, what = Path(sys.argv[1]), (sys.argv[2:] or ["m0"])[0]
    told = {"COUNT": {}, "SIZE": {}}
    for line in (build / f"{what}.txt").read_text().splitlines():
        word, *rest = line.split(" ")
        if word in told:
            told[word][rest[0]] = int(rest[1])
    flash, ram = {}, 0
    for one in sorted(build.glob(f"{what}-*.o")):
        text, data, bss = map(int, said("arm-none-eabi-size", str(one)).splitlines()[1].split()[:3])
        flash[one.stem.removeprefix(f"{what}-")] = text
        ram += data + bss
    if what == "m0":
        flash = {"meter": sum(flash.values()), **{f"{name}.c": octets for name, octets in flash.items()}}
    figures = {
        "made_by": f"make {what}, in docs/reference-meter",
        **({} if what == "m0" else {"library": Path("microbit/monocypher.txt").read_text().split()[0]}),
        "how": HOW,
        "compiler": said("arm-none-eabi-gcc", "--version").splitlines()[0],
        "flags": "-Os -mcpu=cortex-m0plus -mthumb",
        "payload_octets": 52,
        "instructions": told["COUNT"],
        "flash_octets": flash,
        "ram_octets": {"static": ram, **told["SIZE"]},
    }
    json.dump(figures, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
