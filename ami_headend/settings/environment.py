"""The environment of the settings, and the folder of the head-end's files."""

import os

import django_stubs_ext
from environs import Env, EnvError

from ami_headend.core import folders

# Lets classes of Django take the type parameters that its stubs give them.
django_stubs_ext.monkeypatch()

env = Env()
BASE_DIR = folders.BASE_DIR
VAR_DIR = folders.var_dir(os.environ)

_REQUIRED = {
    "DATABASE_URL": "postgres://USER:PASSWORD@HOST:5432/NAME",
    "REDIS_URL": "rediss://:PASSWORD@HOST:6379/0",
    "SECRET_KEY": "50 random characters or more, the same on every host",
}


def require() -> None:
    """Raise EnvError with one sentence if a variable without a sensible default is missing."""
    missing = [name for name in _REQUIRED if not env.str(name, "")]
    if missing:
        raise EnvError(
            "; ".join(f"{name} is not set: set it to {_REQUIRED[name]}" for name in missing)
            + " (or, for the local stack of make up, set AMI_LOCAL=1)."
        )
