"""Pages of errors say what is wrong and what to do, without a script and without a database."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from ami_headend.web.problems import server_error
from concentrators.fleet import tokens
from tests.factories import ConcentratorFactory


@pytest.mark.django_db
def test_a_page_that_is_not_there(admin_client: Client) -> None:
    answer = admin_client.get("/nowhere/")
    assert answer.status_code == 404
    assert "There is no such page" in answer.content.decode()
    assert reverse("admin:index") in answer.content.decode()


@pytest.mark.django_db
def test_a_page_that_one_may_not_see_is_one_line_in_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.force_login(User.objects.create_user("reader", is_staff=True))
    answer = client.get(reverse("admin:failures"))
    assert answer.status_code == 403
    assert "An administrator can give you a role" in answer.content.decode()
    (line,) = [record for record in caplog.records if record.name == "django.request"]
    number = User.objects.get(username="reader").pk
    forbidden = f"Forbidden (Permission denied): {reverse('admin:failures')}"
    assert line.getMessage() == f"{forbidden} (account {number}, from 127.0.0.1)"
    assert line.exc_info is None


@pytest.mark.django_db
def test_who_was_refused_is_in_the_log_by_number(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/api/v1/meters", REMOTE_ADDR="192.0.2.9")
    concentrator = ConcentratorFactory.create()
    token = tokens.issue(concentrator, "bench")
    client.get("/api/v1/uplinks/1", headers={"Authorization": f"Bearer {token}"}, REMOTE_ADDR="192.0.2.10")
    said = [record.getMessage() for record in caplog.records if record.name == "django.request"]
    assert said == [
        "Unauthorized: /api/v1/meters (not signed in, from 192.0.2.9)",
        f"Not Found: /api/v1/uplinks/1 (concentrator {concentrator.pk}, from 192.0.2.10)",
    ]


def test_a_fault_of_ours_needs_nothing(rf: Any) -> None:
    answer = server_error(rf.get("/admin/"))
    assert answer.status_code == 500
    text = answer.content.decode()
    assert "The head-end failed on this request" in text
    assert "<script" not in text
