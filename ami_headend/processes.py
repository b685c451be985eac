"""The commands that run the head-end's processes: web server, worker, schedule."""

import sys

WEB_THREADS = 4


def web_command(host: str, port: int, workers: int) -> list[str]:
    """The web server: WSGI, HTTP/1, no access log (a concentrator posts often; its uplinks are rows)."""
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--no-ws"]
    command += ["--host", host, "--port", str(port), "--workers", str(workers)]
    command += ["--blocking-threads", str(WEB_THREADS), "--log-level", "warning"]
    return [*command, "ami_headend.wsgi:application"]


def worker_command(processes: int) -> list[str]:
    """A worker with that many processes."""
    # Celery warns whoever starts it as root, as in a container: for tasks as pickles, and ours are JSON.
    command = [sys.executable, "-W", "ignore::UserWarning:celery.platforms", "-m", "celery", "--app", "ami_headend"]
    command += ["--quiet", "worker", "--pool", "prefork"]
    return [*command, "--concurrency", str(processes), "--loglevel", "INFO", "--without-gossip", "--without-mingle"]


def beat_command() -> list[str]:
    """The schedule; one in a deployment."""
    return [sys.executable, "-m", "celery", "--app", "ami_headend", "--quiet", "beat", "--loglevel", "INFO"]
