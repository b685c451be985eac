"""Readings and clients for the tests of meters."""

from collections.abc import Callable
from datetime import datetime

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from meters.models import Meter, Reading, Register
from meters.readings.obis import LOAD_PROFILE

Store = Callable[..., None]


@pytest.fixture
def load_profile(db: None) -> Register:
    return Register.objects.get(obis_code=LOAD_PROFILE)


@pytest.fixture
def store(load_profile: Register) -> Store:
    """Stores a reading of 100 and up at each of some times."""

    def store(meter: Meter, times: list[datetime], register: Register = load_profile, value: int = 100) -> None:
        Reading.objects.bulk_create(
            Reading(
                captured_at=at,
                meter=meter,
                register=register,
                value=value + number,
                uplink_id=17,
                interval_minutes=meter.interval_minutes if register == load_profile else 0,
            )
            for number, at in enumerate(times)
        )

    return store


@pytest.fixture
def reader(db: None) -> Client:
    """The client of a user who may view meters, places, readings and events, and no more."""
    user = User.objects.create_user("reader")
    names = ["view_meter", "view_place", "view_reading", "view_meterevent"]
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="meters", codename__in=names))
    client = Client()
    client.force_login(user)
    return client
