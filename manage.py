#!/usr/bin/env python
"""The door to every management command."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import OperationalError
from environs import EnvError

from ami_headend.local.embedded import EmbeddedError


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ami_headend.settings")
    try:
        execute_from_command_line(sys.argv)
        sys.stdout.flush()
    except (EnvError, EmbeddedError, ImproperlyConfigured) as error:
        # A setting that cannot be read is the operator's to mend: a sentence, not a traceback.
        sys.exit(f"Settings: {error}")
    except OperationalError as error:
        sys.exit(f"The database does not answer, or not as it should: {str(error).splitlines()[0]}")
    except BrokenPipeError:  # whoever read the output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
