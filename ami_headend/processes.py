"""The commands that run the head-end's processes: web server, worker, schedule."""

import sys

from django.conf import settings


def web_command(host: str, port: int, processes: int) -> list[str]:
    """The web server with so many processes."""
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "web"]
    return [*command, "--host", host, "--port", str(port), "--processes", str(processes)]


def worker_command(processes: int) -> list[str]:
    """A worker with that many processes."""
    # Celery warns whoever starts it as root, as in a container: for tasks as pickles, and ours are JSON.
    command = [sys.executable, "-W", "ignore::UserWarning:celery.platforms", "-m", "celery", "--app", "ami_headend"]
    command += ["--quiet", "worker", "--pool", "prefork"]
    return [*command, "--concurrency", str(processes), "--loglevel", "INFO", "--without-gossip", "--without-mingle"]


def beat_command() -> list[str]:
    """The schedule; one in a deployment."""
    return [sys.executable, "-m", "celery", "--app", "ami_headend", "--quiet", "beat", "--loglevel", "INFO"]
