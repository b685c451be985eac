"""The address of Redis as Celery spells it."""

from urllib.parse import parse_qs, urlsplit


def celery_broker_url(url: str) -> str:
    """The same Redis in Celery's spelling, which differs for unix sockets and for TLS.

    Celery does not look at the server's certificate unless it is told to; every other client does.
    """
    parts = urlsplit(url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        return url + ("&" if parts.query else "?") + "ssl_cert_reqs=required"
    if parts.scheme != "unix":
        return url
    account = parts.netloc.rpartition("@")[0]
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{account}{'@' * bool(account)}{parts.path}?virtual_host={database}"
