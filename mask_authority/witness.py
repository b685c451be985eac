"""The witness of an authority's state: a small file on another disk that is never restored with it.

It says how many sums the authority has answered, and the latest start among them. A state that says fewer was
restored, and forgot what it answered.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ami_headend.core.text import counted
from mask_authority.keys import AuthorityStateError


class Seen(NamedTuple):
    """What a witness saw: which state, how many answers, and the latest start (Unix seconds) that one was for."""

    state: str
    answers: int
    latest_s: int


def read(path: Path) -> Seen | None:
    """What the witness saw; None where the file is not there or says nothing."""
    try:
        said = json.loads(path.read_text())
        return Seen(str(said["state"]), int(said["answers"]), int(said["latest_s"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuthorityStateError(f"the witness {path} cannot be read: {error}") from None


def write(path: Path, seen: Seen) -> None:
    """Replace what the witness saw; on the disk when this returns. AuthorityStateError where it cannot be."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w") as file:
            json.dump(seen._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise AuthorityStateError(f"the witness {path} cannot be written: {error.strerror}") from None


def check(seen: Seen | None, state: str, answers: int, path: Path) -> None:
    """AuthorityStateError where the witness does not bear out that this state knows all that was answered."""
    if seen is not None and seen.state == state and seen.answers <= answers:
        return  # it may know more than the witness saw: killed between the two writes, before the answer left
    if seen is None:
        why = "is not there"
    elif seen.state != state:
        why = "is that of another state"
    else:
        why = f"saw {counted(seen.answers, 'answer')}, and the state knows {answers}"
    raise AuthorityStateError(
        f"the witness {path} {why}: the state was restored, or the witness was. Nothing is answered before you say so: "
        "manage.py mask_authority restored"
    )
