"""Redis answers with errors: made so, and made well again."""

from pathlib import Path

import redis

from tests.flows.stack import wait_for

TROUBLES = ("READONLY", "MISCONF", "OOM", "NOAUTH")


def spoil(broker: redis.Redis, trouble: str) -> None:
    """Make Redis answer with an error whatever it is told to write."""
    match trouble:
        case "READONLY":
            broker.replicaof("127.0.0.1", 1)
        case "MISCONF":
            place = Path(str(broker.config_get("dir")["dir"])) / "dump.rdb"
            place.mkdir()
            (place / "in-the-way").touch()
            broker.config_set("save", "1 1")
            broker.set("changed", 1)
            wait_for("a save fails", lambda: broker.info("persistence")["rdb_last_bgsave_status"] == "err")
        case "OOM":
            broker.config_set("maxmemory", 1)
        case "NOAUTH":
            broker.config_set("requirepass", "other")
            broker.client_kill_filter(skipme=True, _type="normal")
        case "away":
            broker.shutdown(nosave=True)


def mend(broker: redis.Redis) -> None:
    """Make it take everything again."""
    broker.config_set("requirepass", "")
    broker.config_set("maxmemory", 0)
    broker.config_set("save", "")
    broker.replicaof("NO", "ONE")
