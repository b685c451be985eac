"""The unit files that the documents name: whole, hardened, and in step with the commands that `up` runs."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from django.conf import settings

from ami_headend.core import sd_notify
from ami_headend.processes import beat_command, worker_commands
from ami_headend.queues import QUEUES
from tests.rack import services
from tests.rack.hosts import Host

HOSTS = Path(settings.BASE_DIR) / "docs/deploy/hosts"
UNITS = Path(settings.BASE_DIR) / "docs/deploy/systemd"
SERVICES = sorted(UNITS.glob("*.service"))
PLACE = "/srv/ami-headend/.venv/bin/"


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def test_each_unit_is_hardened_and_ends_in_good_order() -> None:
    assert [unit.stem.removeprefix("ami-headend-") for unit in SERVICES] == [
        "alerts",
        "background",
        "backup",
        "beat",
        "deliveries",
        "dlms",
        "uplinks",
        "web",
    ]
    for unit in SERVICES:
        for name, value in {"User": "headend", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}.items():
            assert values(unit, name) == [value], f"{unit.name}: {name}"
        if values(unit, "Type") != ["oneshot"]:
            assert values(unit, "KillMode") == ["mixed"]
            assert values(unit, "Restart") == ["always"]
            assert int(values(unit, "TimeoutStopSec")[0]) >= 30
            # Its main loop tells that it goes round; one that is stopped takes no signal but this.
            assert values(unit, "Type") == ["notify"]
            assert float(values(unit, "WatchdogSec")[0]) >= 10 * sd_notify.EVERY_S
            assert values(unit, "WatchdogSignal") == ["SIGKILL"]
        owner = "/etc/ami-headend/owner.env" in values(unit, "EnvironmentFile")
        assert owner is unit.name.endswith("backup.service"), f"{unit.name}: the owner's password"


def test_the_units_start_what_up_starts() -> None:
    started = {unit.stem: shlex.split(values(unit, "ExecStart")[0].replace("%%", "%")) for unit in SERVICES}
    served: list[str] = []
    for name, command in worker_commands(1).items():
        unit = started["ami-headend-" + {"worker": "uplinks"}.get(name, name)]
        options = {"--concurrency", "--queues", "--hostname"}
        mine = [word for word in command if word.startswith("--") and word != "--quiet"]
        assert sorted(word for word in unit if word.startswith("--")) == sorted(mine)
        for option in options - {"--concurrency"}:
            assert unit[unit.index(option) + 1] == command[command.index(option) + 1]
        served += unit[unit.index("--queues") + 1].split(",")
    assert sorted(served) == sorted(QUEUES)
    assert started["ami-headend-beat"][1:] == [word for word in beat_command()[3:] if word != "--quiet"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_them(tmp_path: Path) -> None:
    """Every key and value is known; the programs and the user, which only a deployment has, are stood in for."""
    for unit in [*UNITS.iterdir(), HOSTS / "patroni.service"]:
        text = re.sub(rf"={PLACE}\S+|=/opt/patroni/bin/\S+", "=/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(re.sub(r"^(User|Group)=\w+$", r"\1=root", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_patroni_is_set_as_it_is_where_hosts_fail(tmp_path: Path) -> None:
    """What the rack measures holds for the sample: both decide alike, when and to whom the primary goes over."""
    services.patroni(Host("db1", 1, tmp_path), [], {"postgres": "", "replicator": "", "rewinder": ""}, {})
    (written,) = tmp_path.rglob("patroni.json")
    rack, sample = yaml.safe_load(written.read_text()), yaml.safe_load((HOSTS / "patroni.yml").read_text())
    ours, theirs = (whole["bootstrap"]["dcs"] for whole in (sample, rack))
    spans = {name: value for name, value in theirs["postgresql"]["parameters"].items() if "timeout" in name}
    assert {name: ours["postgresql"]["parameters"].get(name) for name in spans} == spans
    assert {**ours, "postgresql": None} == {**theirs, "postgresql": None}
    assert sample["bootstrap"]["initdb"] == rack["bootstrap"]["initdb"]
    anew = "remove_data_directory_on_rewind_failure"
    assert sample["postgresql"][anew] is rack["postgresql"][anew] is True


def test_no_door_between_hosts_is_without_tls() -> None:
    patroni = yaml.safe_load((HOSTS / "patroni.yml").read_text())
    assert [line.split()[0] for line in patroni["postgresql"]["pg_hba"]] == ["local", "hostssl", "hostssl"]
    assert {role["sslmode"] for role in patroni["postgresql"]["authentication"].values()} == {"verify-full"}
    assert patroni["restapi"]["verify_client"] == "optional"
    etcd = (HOSTS / "etcd").read_text()
    assert "http://" not in etcd
    assert etcd.count("CLIENT_CERT_AUTH=true") == 2
    assert "check-ssl verify required" in (HOSTS / "haproxy-primary.cfg").read_text()


@pytest.mark.skipif(services.haproxy_program() is None, reason="haproxy is not installed")
@pytest.mark.parametrize("name", ["haproxy-primary.cfg", "haproxy-entrance.cfg"])
def test_haproxy_takes_them(tmp_path: Path, name: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", "key", "-out", "own"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "pem").write_text((tmp_path / "own").read_text() + (tmp_path / "key").read_text())
    text = re.sub(r"/etc/\S+\.pem", str(tmp_path / "pem"), (HOSTS / name).read_text())
    (tmp_path / "cfg").write_text(text.replace("    user haproxy\n    group haproxy\n", ""))
    done = subprocess.run(
        [str(services.haproxy_program()), "-c", "-f", str(tmp_path / "cfg")], capture_output=True, text=True
    )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
