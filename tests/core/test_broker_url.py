"""Redis as Celery spells it."""

import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection
from kombu.transport.redis import Channel

from ami_headend.core.broker_url import celery_broker_url


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://host:6379/3", "redis://host:6379/3"),
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix://ami:p%2Fw@/run/redis.sock?db=1", "redis+socket://ami:p%2Fw@/run/redis.sock?virtual_host=1"),
        ("rediss://:pw@host:6379/3", "rediss://:pw@host:6379/3?ssl_cert_reqs=required"),
        ("rediss://host?ssl_ca_certs=/ca.pem", "rediss://host?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://host?ssl_cert_reqs=none", "rediss://host?ssl_cert_reqs=none"),
    ],
)
def test_celery_spells_unix_sockets_and_tls_its_own_way(url: str, broker: str) -> None:
    assert celery_broker_url(url) == broker


def test_celery_reads_the_password_and_the_certificate_s_check_from_its_url() -> None:
    with Connection(celery_broker_url("unix://:p%2Fw@/nowhere/redis.sock?db=3")) as broker:
        channel: Any = Channel.__new__(Channel)  # a whole one would connect
        channel.connection = SimpleNamespace(client=broker, default_port=6379)
        kept = channel._connparams()
    assert (kept["path"], kept["password"], kept["db"]) == ("/nowhere/redis.sock", "p/w", 3)
    with Connection(celery_broker_url("rediss://:pw@host/0")) as broker:
        assert broker.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
