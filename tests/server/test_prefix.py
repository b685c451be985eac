"""The head-end below a path of a site that has others, whether the proxy passes the prefix on or takes it away."""

import re

import httpx
import pytest

from tests.flows.stack import Stack, stack_of

stack = stack_of("web", environ={"URL_PREFIX": "/ami"})


@pytest.mark.parametrize("passed_on", ["/ami", ""])
def test_pages_and_what_they_load_stay_below_the_prefix(stack: Stack, passed_on: str) -> None:
    with httpx.Client(base_url=stack.base_url, timeout=30) as client:
        assert client.get(f"{passed_on}/health/live").status_code == 200
        assert client.get(f"{passed_on}/admin/").headers["Location"].startswith("/ami/admin/login/")
        page = client.get(f"{passed_on}/admin/login/")
        loaded = re.findall(r'(?:src|href)="(/[^"#?]*)', page.text)
        assert any("console.css" in path for path in loaded)
        assert any("icon.svg" in path for path in loaded)
        for path in loaded:
            assert path.startswith("/ami/"), path
            if "/static/" in path:
                assert client.get(passed_on + path.removeprefix("/ami")).status_code == 200, path
        missing = client.get(f"{passed_on}/api/v1/nothing")
        assert (missing.status_code, missing.headers["Content-Type"]) == (404, "application/problem+json")
        assert "default-src 'none'" in missing.headers["Content-Security-Policy"].split("; ")  # in any order
