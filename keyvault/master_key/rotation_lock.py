"""The lock between wrapping of secrets and changes of the active master key version.

No census sees a secret that is wrapped but not committed. So a transaction that wraps holds a shared lock until it
ends, and one that changes the versions holds it exclusively.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from ami_headend.core import locks
from keyvault import master_key
from keyvault.master_key import MasterKeyError, MasterKeys

_WAIT_S = 30


def keys_for_wrapping() -> MasterKeys:
    """Return the master keys; the active version does not change until the caller's transaction ends."""
    if not connection.in_atomic_block:
        raise RuntimeError("secrets are wrapped in the transaction that stores them")
    locks.share(locks.MASTER_KEY)
    return master_key.provider().fresh()


@contextmanager
def changing_versions() -> Iterator[None]:
    """Open a transaction in which nobody else wraps. MasterKeyError if others still wrap after half a minute."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{_WAIT_S}s'")
            try:
                locks.take(locks.MASTER_KEY)
            except OperationalError as error:
                if isinstance(error.__cause__, LockNotAvailable):
                    raise MasterKeyError("keys are being provisioned: wait for that to end, and try again") from None
                raise
            cursor.execute("SET LOCAL lock_timeout = 0")
        yield
