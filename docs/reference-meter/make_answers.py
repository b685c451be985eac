# SPDX-License-Identifier: Apache-2.0
"""Writes the known answers of docs/vectors.json as C tables: make_answers.py VECTORS_JSON > answers.h

Of all vectors it takes those that this meter can do: frames of ccm, session and mac that it has to seal, and commands.
"""

import json
import sys
from pathlib import Path

SCHEMES = {"ccm": 0, "session": 1, "mac": 2}
SAYS = {"done": 0, "refused": 1, "too late": 2, "nothing": -1}


def octets(text):
    """A C expression for octets, and their length."""
    if text is None:
        return "{0, 0}"
    return (
        '{(const uint8_t *)"'
        + "".join(f"\\x{text[i : i + 2]}" for i in range(0, len(text), 2))
        + f'", {len(text) // 2}}}'
    )


def frame(one):
    parts = [octets(one.get(name)) for name in ("system_title", "device_key", "context", "payload", "frame")]
    scheme = SCHEMES[one["scheme"]]
    return (
        f'    {{"{one["id"]}", {scheme}, {one["alg"]}, {one["epoch"]}, {one["counter"]}ull,\n     {", ".join(parts)}}},'
    )


def step(one):
    parts = [octets(one.get(name)) for name in ("sends", "frame", "command", "answer_payload", "answer")]
    says = SAYS[one.get("says", "nothing")]
    return f"    {{{one['clock']}u, {one['running']}u, {int(one.get('boots', False))}, {says}, {', '.join(parts)}}},"


def main():
    vectors = json.loads(Path(sys.argv[1]).read_text(encoding="ascii"))["vectors"]
    sealed = [
        v for v in vectors if v["kind"] == "frame" and v["scheme"] in SCHEMES and "payload" in v and "counter" in v
    ]
    commands = [v for v in vectors if v["kind"] == "command" and v["scheme"] in SCHEMES]
    print("/* Made by make_answers.py of docs/vectors.json. */")
    print("static const struct frame_answer FRAMES[] = {")
    print("\n".join(map(frame, sealed)))
    print("};")
    for number, one in enumerate(commands):
        print(f"static const struct step STEPS_{number}[] = {{")
        print("\n".join(map(step, one["steps"])))
        print("};")
    print("static const struct conversation CONVERSATIONS[] = {")
    for number, one in enumerate(commands):
        parts = [octets(one.get(name)) for name in ("system_title", "device_key", "transfer_key")]
        numbers = [SCHEMES[one["scheme"]], one["alg"], one["transfer_alg"], one["interval_minutes"]]
        print(f'    {{"{one["id"]}", {", ".join(map(str, numbers))}, {one["counter"]}ull, {one["clock"]}u,')
        print(f"     {', '.join(parts)}, STEPS_{number}, {len(one['steps'])}}},")
    print("};")


if __name__ == "__main__":
    main()
