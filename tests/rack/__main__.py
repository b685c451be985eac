"""``python -m tests.rack``: starts the rack, runs the matrix of faults, prints a table, and leaves nothing behind."""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from ami_headend.local.embedded.processes import tethered
from tests.rack import preconditions
from tests.rack.hosts import UNSHARE

PREFIX = "ami-rack-"
_INSIDE = "AMI_RACK_FOLDER"


def main(words: Sequence[str]) -> int:
    arguments = _parser().parse_args(words)
    if arguments.list:
        return _list()
    if _INSIDE in os.environ:
        return _inside(Path(os.environ[_INSIDE]), arguments)
    if lacking := preconditions.lacking():
        print("The rack cannot be built here: " + "; ".join(lacking) + ".", file=sys.stderr)
        return preconditions.CANNOT
    return _outside(words, keep=arguments.keep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.rack", description=__doc__)
    parser.add_argument("--only", action="append", metavar="TEXT", help="cells whose name holds this; repeatable")
    parser.add_argument("--list", action="store_true", help="print the cells and end")
    parser.add_argument("--patience", type=float, default=float(os.environ.get("RACK_PATIENCE", "1")), metavar="FACTOR")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the logs of all hosts there at the end")
    parser.add_argument("--hold", action="store_true", help="start the rack and leave it running until Ctrl-C")
    return parser


def _list() -> int:
    from tests.rack.cells import NAMES  # noqa: PLC0415

    print("\n".join(f"{name}: {said}" for name, said in NAMES.items()))
    return 0


def _outside(words: Sequence[str], *, keep: Path | None) -> int:
    """Run this program again in namespaces of its own, and remove its folder however that ends."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=preconditions.place()))
    command = [*UNSHARE, sys.executable, "-m", "tests.rack", *words]
    environ = {**os.environ, _INSIDE: str(folder)}
    try:
        inner = subprocess.Popen(command, env=environ, preexec_fn=tethered(signal.SIGKILL))  # noqa: PLW1509
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: _interrupt(inner.pid))
        return inner.wait()
    finally:
        if keep is not None:
            _keep(folder, keep)
        shutil.rmtree(folder, ignore_errors=True)


def _interrupt(pid: int) -> None:
    for process in psutil.Process(pid).children():
        process.send_signal(signal.SIGINT)


def _keep(folder: Path, to: Path) -> None:
    for path in folder.glob("*/*.log"):
        target = to / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def _sweep() -> None:
    """Remove the folders of runners that were killed; the kernel has taken everything else of theirs."""
    for folder in Path(preconditions.place()).glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _inside(folder: Path, arguments: argparse.Namespace) -> int:
    from tests.rack.rack import Rack, RackError  # noqa: PLC0415

    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    rack = Rack(folder, arguments.patience)
    try:
        rack.start(say)
        os.environ.update(rack.environ(None))
        import django  # noqa: PLC0415 - the settings are read here

        django.setup()
        logging.getLogger("keyvault").setLevel(logging.WARNING)  # a line for each act
        from tests.rack import matrix  # noqa: PLC0415

        if arguments.hold:
            return matrix.hold(rack, say)
        return matrix.run(rack, arguments.only or [], say)
    except RackError as error:
        print(f"The rack failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: everything is ended.", file=sys.stderr)
        return 130
    finally:
        rack.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
