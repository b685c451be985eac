"""The commands that run the head-end's processes: web server, worker, schedule."""

import shlex
import sys
from collections.abc import Sequence

from ami_headend.queues import ALERTS, BACKGROUND, DELIVERIES, QUEUES, UPLINKS


def manage_command(name: str) -> list[str]:
    """Return a management command, wherever the head-end is installed."""
    return [sys.executable, "-m", "ami_headend", name]


def web_command(host: str, port: int, processes: int) -> list[str]:
    """Return the command of a web server with this many processes."""
    return [*manage_command("web"), "--host", host, "--port", str(port), "--processes", str(processes)]


def worker_command(processes: int, queues: Sequence[str] = QUEUES) -> list[str]:
    """Return the command of a worker with this many processes for some of the queues; they are its name."""
    # Started as root, as in a container, Celery warns of pickled tasks; ours are JSON.
    command = [sys.executable, "-W", "ignore::UserWarning:celery.platforms", "-m", "celery", "--app", "ami_headend"]
    command += ["--quiet", "worker", "--pool", "prefork", "--concurrency", str(processes)]
    command += ["--queues", ",".join(queues), "--hostname", f"{'+'.join(queues)}@%h"]
    return [*command, "--loglevel", "INFO", "--without-gossip", "--without-mingle"]


def worker_commands(processes: int) -> dict[str, list[str]]:
    """Return the workers of one machine by name. Each kind of work has its own processes, so that none starves
    another.
    """
    return {
        "worker": worker_command(processes, [UPLINKS]),
        "alerts": worker_command(2, [ALERTS]),
        "deliveries": worker_command(2, [DELIVERIES]),
        "background": worker_command(2, [BACKGROUND]),
    }


def beat_command() -> list[str]:
    """Return the command of the schedule; a deployment runs one."""
    return [sys.executable, "-m", "celery", "--app", "ami_headend", "--quiet", "beat", "--loglevel", "INFO"]


def listener_commands(arguments: str) -> dict[str, list[str]]:
    """Return the listener for DLMS meters by its name; its arguments are written as for a shell; none if empty."""
    words = shlex.split(arguments)
    return {"dlms": [*manage_command("dlms_listen"), *words]} if words else {}
