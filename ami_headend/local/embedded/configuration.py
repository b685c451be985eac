"""Default settings of the local stack: addresses, roles, secret key."""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ami_headend.core.folders import var_dir
from ami_headend.local.embedded.paths import OWNER, EmbeddedError, complete, database_url, redis_url
from ami_headend.local.embedded.servers import running, services

# These need no running head-end: on a new machine, a restore comes first.
_SERVED = ("backup", "restore", "restore_drill")


@contextmanager
def configured(environ: MutableMapping[str, str], words: Sequence[str]) -> Iterator[None]:
    """Configure the local stack in `environ`, and run its servers for the block if the command needs them.

    EmbeddedError with one sentence if that is impossible.
    """
    folder = configure(environ)
    needs_servers = bool(words) and words[0] in _SERVED and not {"-h", "--help"} & set(words)
    is_own = environ["DATABASE_URL"] == database_url(folder)
    with services(folder, environ) if needs_servers and is_own and not running(folder) else nullcontext():
        yield


def configure(environ: MutableMapping[str, str]) -> Path:
    """Set missing variables in `environ` to the local stack's own; return its folder.

    EMBEDDED_DATABASE_URL tells the settings that the database belongs to the local stack.
    """
    folder = var_dir(environ).absolute()
    environ["AMI_VAR_DIR"] = str(folder)
    own = database_url(folder)
    if not environ.get("DATABASE_URL"):
        if environ.get("OWNER_DATABASE_URL"):
            raise EmbeddedError("OWNER_DATABASE_URL is set and DATABASE_URL is not: set both, or neither.")
        environ["DATABASE_URL"] = own
    if environ["DATABASE_URL"] == own:
        environ["EMBEDDED_DATABASE_URL"] = own
        environ["OWNER_DATABASE_URL"] = database_url(folder, OWNER)
    if not environ.get("REDIS_URL"):
        environ["REDIS_URL"] = redis_url(folder)
    complete(environ, folder)
    return folder
