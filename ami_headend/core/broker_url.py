"""The address of Redis in Celery's spelling."""

from urllib.parse import parse_qs, urlsplit


def celery_broker_url(url: str) -> str:
    """Return the same address in Celery's spelling, which differs for unix sockets and for TLS.

    Celery checks the server's certificate only if it is told to; every other client does so by default.
    """
    parts = urlsplit(url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        return url + ("&" if parts.query else "?") + "ssl_cert_reqs=required"
    if parts.scheme != "unix":
        return url
    account = parts.netloc.rpartition("@")[0]
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{account}{'@' * bool(account)}{parts.path}?virtual_host={database}"
