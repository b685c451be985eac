"""The read API under odd parameters, as its schema names them: whatever is asked, it is never a fault of ours."""

import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from django.contrib.auth.models import User

from tests.flows import site as sites
from tests.flows.site import frames_of, wait_verified
from tests.flows.stack import Stack

ODD = [
    "", " ", "0", "-1", "1e9", "9" * 30, "NaN", "null", "true", "\x00", "\ud7ff", "💡", "%",
    "'", '"; --', "../..", "a" * 3000,
    "1-0:1.29.0", "1-0:1.29.0*255", "0024befffe000000", "ffffffffffffffff", "2026-02-30", "2026-11-22T00:00:00Z",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999+14:00", "2026-11-22T00:00:00", "24:00",
    "json", "csv", "parquet",
    "MTIz", "eyJhIjoxfQ==", "commissioned",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(live_stack: Stack) -> Iterator[httpx.Client]:
    site = sites.found(live_stack, 3)
    wait_verified([site.posted(frames_of(site.devices, range(4)))])
    User.objects.create_superuser("root", password="a long password")
    ODD.append(site.devices[0].title.hex())
    with httpx.Client(base_url=live_stack.base_url, timeout=30) as client:
        client.get("/admin/login/")
        form = {"username": "root", "password": "a long password", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert client.post("/admin/login/", data=form).status_code == 302
        yield client


@pytest.mark.parametrize("requests", [10, pytest.param(400, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
def test_no_answer_is_a_fault(client: httpx.Client, requests: int) -> None:
    """That many of each operation."""
    chance = random.Random(41)
    schema = yaml.safe_load(client.get("/api/schema/").text)
    seen: set[int] = set()
    operations = [(path, operations["get"]) for path, operations in schema["paths"].items() if "get" in operations]
    assert len(operations) >= 7
    for path, operation in operations:
        names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"] + ["format", "nonsense"]
        for _ in range(requests):
            where = path
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    where = where.replace(f"{{{parameter['name']}}}", quote(chance.choice(ODD), safe=""))
            asked: list[tuple[str, Any]] = [
                (name, chance.choice(ODD)) for name in chance.choices(names, k=chance.randrange(4))
            ]
            answer = client.get(where, params=asked)
            assert answer.status_code < 500, (where, asked, answer.text[-500:])
            if answer.status_code >= 400 and where.startswith("/api/") and "//" not in where:
                assert answer.headers["Content-Type"] == "application/problem+json", (where, asked)
            seen.add(answer.status_code)
    assert {200, 400, 404} <= seen
