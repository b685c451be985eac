"""Stub, being replaced."""
from pathlib import Path


def database_url(var_dir: Path) -> str:
    return "postgres://postgres@/postgres?host=" + str(var_dir / "postgres")


def redis_url(var_dir: Path) -> str:
    return "unix://" + str(var_dir / "redis.sock")


def celery_broker_url(url: str) -> str:
    return url.replace("unix://", "redis+socket://", 1)


def secret_key(var_dir: Path) -> str:
    return "x" * 60
