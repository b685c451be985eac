"""``python -m tests.mutation``: changed octets of every form that strangers can send; see ``forms`` and ``run``."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mutation import run


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, metavar="N", help="how many mutants (1000000)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="go on from what this file says, and keep it there")
    parser.add_argument("--seed", type=int, default=1, help="of a run that goes on from nothing (1)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", metavar="SEED/FORM/NUMBER", help="judge one chunk again, as a failure named it")
    arguments = parser.parse_args(words)
    if arguments.again:
        seed, form, number = arguments.again.split("/")
        judged = run.judge(run.Chunk(int(seed), form, int(number)))
        print(judged.failed or dict(judged.outcomes))
        return int(bool(judged.failed))
    progress = run.Progress(arguments.state, arguments.seed)
    failed = run.run(progress, arguments.frames, arguments.processes)
    print(report(progress))
    print("\n".join(failed), file=sys.stderr)
    return int(bool(failed))


def report(progress: run.Progress) -> str:
    """What has been judged, a form a line."""
    said = progress.said
    lines = [
        f"{form}: {sum(outcomes.values()):,}, slowest {1000 * said['slowest_s'][form]:.1f} ms; "
        + ", ".join(f"{outcome} {count:,}" for outcome, count in Counter(outcomes).most_common())
        for form, outcomes in said["forms"].items()
    ]
    total, cpu_s = progress.mutants, said["cpu_s"]
    speed = f"{total:,} mutants in {said['rounds']} rounds, {cpu_s:,.0f} s of CPU: {total / cpu_s:,.0f} a second"
    return "\n".join([*lines, f"{speed} and core; 100 million take {1e8 * cpu_s / total / 60:,.0f} minutes of a core"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
