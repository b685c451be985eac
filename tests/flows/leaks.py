"""Looking for secrets in what a head-end writes, in every form that a program might have written them in."""

import base64
from collections.abc import Mapping


def forms(secret: bytes) -> set[bytes]:
    """Raw, hex, base64 and base64url wherever the secret begins within it, Python's and JSON's ways of octets."""
    found = {
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        secret.hex(":").encode(),
        secret.hex(" ").encode(),
        repr(secret)[2:-1].encode(),
        repr(list(secret))[1:-1].encode(),
        repr(list(secret))[1:-1].replace(" ", "").encode(),
        str(int.from_bytes(secret, "big")).encode(),
    }
    for shift in range(3):
        first = -(-shift * 8 // 6)  # the first character that the octets before have no bit in
        last = (shift + len(secret)) * 8 // 6  # and the last that those after have none in
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(shift) + secret + bytes(3))[first:last])
    return found


def find(secrets: Mapping[str, bytes], places: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """(secret, place) by name wherever a form of the secret stands in what the place holds."""
    wanted = [(name, form) for name, secret in secrets.items() for form in forms(secret)]
    return {(name, place) for place, content in places.items() for name, form in wanted if form in content}
