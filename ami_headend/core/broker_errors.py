"""What an error of the broker tells: one home for web, workers and schedule."""

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

# Whatever keeps Redis from taking a task: away, hung (a timeout), loading, read-only, out of memory, unable to save
# (MISCONF), another password. All of them pass once it is mended, none is a fault of the task. Kombu wraps
# some of them, lets others through as they are, and OSError is a socket's own.
BROKER_ERRORS: tuple[type[Exception], ...] = (OperationalError, RedisError, OSError)


def summary(error: BaseException) -> str:
    """The error in one line for logs: its first line, or its name where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
