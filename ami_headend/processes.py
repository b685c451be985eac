"""The commands that run the head-end's processes: web server, worker, schedule."""

import sys
from collections.abc import Sequence

from ami_headend.queues import ALERTS, BACKGROUND, QUEUES, UPLINKS


def manage_command(name: str) -> list[str]:
    """A management command, from wherever the head-end is installed."""
    return [sys.executable, "-m", "ami_headend", name]


def web_command(host: str, port: int, processes: int) -> list[str]:
    """The web server with so many processes."""
    return [*manage_command("web"), "--host", host, "--port", str(port), "--processes", str(processes)]


def worker_command(processes: int, queues: Sequence[str] = QUEUES) -> list[str]:
    """A worker with that many processes, for some of the queues; named after them."""
    # Celery warns whoever starts it as root, as in a container: for tasks as pickles, and ours are JSON.
    command = [sys.executable, "-W", "ignore::UserWarning:celery.platforms", "-m", "celery", "--app", "ami_headend"]
    command += ["--quiet", "worker", "--pool", "prefork", "--concurrency", str(processes)]
    command += ["--queues", ",".join(queues), "--hostname", f"{'+'.join(queues)}@%h"]
    return [*command, "--loglevel", "INFO", "--without-gossip", "--without-mingle"]


def worker_commands(processes: int) -> dict[str, list[str]]:
    """The workers of one machine by name: each kind of work has processes of its own, so that none starves another."""
    return {
        "worker": worker_command(processes, [UPLINKS]),
        "alerts": worker_command(2, [ALERTS]),
        "background": worker_command(2, [BACKGROUND]),
    }


def beat_command() -> list[str]:
    """The schedule; one in a deployment."""
    return [sys.executable, "-m", "celery", "--app", "ami_headend", "--quiet", "beat", "--loglevel", "INFO"]
