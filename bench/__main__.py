"""`python -m bench`: starts its own services, measures, prints tables, and leaves nothing behind."""

import os
import sys
import tempfile
from pathlib import Path

import django
from rich.console import Console

from ami_headend.local import embedded
from bench import arguments


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 0 if everything was measured, 1 if that was impossible, 130 after Ctrl-C."""
    args = arguments.parse(argv)
    console = Console()
    bare = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="ami-headend-bench-", dir=args.folder) as folder,
            embedded.services((args.keep or Path(folder)) / "var", bare) as env,
        ):
            os.environ.update(arguments.environment(env))
            django.setup()

            from bench import run  # noqa: PLC0415 - needs Django's models, whose settings are known only now

            run.run(args, Path(folder), console)
    except embedded.EmbeddedError as error:
        console.print(str(error), style="red")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
