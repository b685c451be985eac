"""Entry point of every management command: `ami-headend`, `manage.py`, `python -m ami_headend`."""

import gc
import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import OperationalError
from environs import EnvError

# These start their own PostgreSQL and Redis if none is configured. Other commands use those with AMI_LOCAL=1.
LOCAL_COMMANDS = ("up", "demo")
# Programs of others than the head-end's owner, each with settings of its own: they need nothing of the head-end.
_OWN_SETTINGS = {"mask_authority": "mask_authority.settings"}
_REQUIRED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")


def main() -> None:
    """Run the command in ``sys.argv``. An error that the operator can mend is one sentence on stderr, and exit
    code 1.
    """
    gc.disable()  # until the apps are loaded (ami_headend.apps): there is no garbage yet, and looking costs a fifth
    own = _OWN_SETTINGS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if own:
        os.environ["DJANGO_SETTINGS_MODULE"] = own
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ami_headend.settings")
    try:
        if not own and _is_local(sys.argv[1:]):
            _run_locally()
        else:
            execute_from_command_line(sys.argv)
        sys.stdout.flush()
    except (EnvError, ImproperlyConfigured) as error:
        sys.exit(f"Settings: {error}")
    except OperationalError as error:
        sys.exit(f"The database does not answer properly: {str(error).splitlines()[0]}")
    except BrokenPipeError:  # the reader of the output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _is_local(words: list[str]) -> bool:
    """Whether a command uses the local stack: AMI_LOCAL is set, or the command starts that stack."""
    if os.environ.get("AMI_LOCAL", "").lower() in ("1", "true", "yes", "on"):
        return True
    name = words[0] if words else ""
    # A simulation starts its own head-end unless the environment names one.
    return name in LOCAL_COMMANDS or (name == "simulate" and not any(os.environ.get(one) for one in _REQUIRED))


def _run_locally() -> None:
    try:
        from ami_headend.local import embedded  # noqa: PLC0415 - needs the extra `local`, which no deployment installs
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed, and the local stack needs it: pip install 'ami-headend[local]'.")
    try:
        with embedded.configured(os.environ, sys.argv[1:]):
            execute_from_command_line(sys.argv)
    except embedded.EmbeddedError as error:
        sys.exit(f"Settings: {error}")


if __name__ == "__main__":
    main()
