import pytest
from pytest_django.fixtures import Settings


@pytest.fixture(autouse=True)
def _two_factors_required(settings: Settings) -> None:
    """As in production; passwords are hashed quickly, for there are many."""
    settings.TWO_FACTOR_REQUIRED = True
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
