"""The mail server as one address: TLS as it says, and no password in what is said of a wrong one."""

from typing import Any

import pytest

from ami_headend.core.mail_server import mail_settings


@pytest.mark.parametrize(
    ("url", "port", "tls", "ssl"),
    [
        ("smtp://mail.example", 25, False, False),
        ("smtp+tls://ann:s%40crt@mail.example", 587, True, False),
        ("smtp+tls://ann:s%40crt@mail.example:2525", 2525, True, False),
        ("smtp+ssl://ann:s%40crt@mail.example", 465, False, True),
    ],
)
def test_what_the_address_says_holds(url: str, port: int, tls: bool, ssl: bool) -> None:
    made: dict[str, Any] = mail_settings(url)
    assert (made["EMAIL_HOST"], made["EMAIL_PORT"]) == ("mail.example", port)
    assert (made["EMAIL_USE_TLS"], made["EMAIL_USE_SSL"]) == (tls, ssl)
    assert made["EMAIL_HOST_PASSWORD"] == ("s@crt" if "ann" in url else "")


@pytest.mark.parametrize(
    "url",
    [
        "mail.example",
        "smtps://ann:hunter2@mail.example",
        "smtp+tls://",
        "smtp://ann:hunter2@mail.example:x",
        "smtp://[ann:hunter2",
    ],
)
def test_a_wrong_one_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"it (is not an address|must read)") as caught:
        mail_settings(url)
    assert "hunter2" not in str(caught.value)
