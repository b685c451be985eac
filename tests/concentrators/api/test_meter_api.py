"""The list of meters over REST, by concentrator."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from concentrators.models import Assignment, Concentrator
from tests.concentrators.fleet import NOW, commission

pytestmark = pytest.mark.django_db


def test_meters_of_a_concentrator(concentrator: Concentrator, other_concentrator: Concentrator) -> None:
    here, gone = commission(2, concentrator)
    (there,) = commission(1, other_concentrator)
    Assignment.objects.filter(meter=gone.meter).update(valid_to=NOW - timedelta(hours=1))
    user = User.objects.create_user("reader")
    user.user_permissions.add(Permission.objects.get(codename="view_meter"))
    client = Client()
    client.force_login(user)

    def found(query: str) -> set[str]:
        return {row["serial_number"] for row in client.get(f"/api/v1/meters?{query}").json()["results"]}

    assert found(f"concentrator={concentrator.name}") == {here.meter.serial_number}
    assert found(f"concentrator={other_concentrator.name}&status=commissioned") == {there.meter.serial_number}
    assert len(found("")) == 3
    assert client.get("/api/v1/meters?concentrator=none").status_code == 400
