"""Alerts and metrics: the mail server, webhooks, the token of Prometheus."""

from environs import EnvError

from ami_headend.core import mail_server
from ami_headend.settings.environment import env

PUBLIC_URL = env.str("PUBLIC_URL", "").rstrip("/")  # where people reach the pages; for links in messages
EMAIL_URL = env.str("EMAIL_URL", "")  # smtp://, smtp+tls:// or smtp+ssl://user:password@host:port
if EMAIL_URL:
    try:
        globals().update(mail_server.mail_settings(EMAIL_URL))
    except ValueError as error:
        raise EnvError(f"EMAIL_URL: {error}.") from None
ALERT_EXCHANGE_S = env.float("ALERT_EXCHANGE_S", 10)  # one message to one receiver, from look-up to the last octet
EMAIL_TIMEOUT = ALERT_EXCHANGE_S
DEFAULT_FROM_EMAIL = env.str("EMAIL_FROM", "ami-headend@localhost")
ALERT_EVALUATE_EVERY_S = env.float("ALERT_EVALUATE_EVERY_S", 30)  # and half as often the components are checked
ALERT_STAND_IN_AFTER_S = env.float(
    "ALERT_STAND_IN_AFTER_S", 120
)  # then a web host evaluates, if no worker has; 0: never
ALERT_KEEP_DAYS = env.int("ALERT_KEEP_DAYS", 400)  # alerts that have ended, with their history
METRICS_TOKEN = env.str("METRICS_TOKEN", "")  # for Prometheus, as its bearer token
WEBHOOK_ALLOW_HTTP = env.bool("WEBHOOK_ALLOW_HTTP", False)
# This machine, the local link, and the metadata services of cloud providers. An IPv4 address inside an IPv6 address
# (NAT64, 6to4, Teredo, mapped, ...) is checked too.
WEBHOOK_REFUSED_NETWORKS = env.list(
    "WEBHOOK_REFUSED_NETWORKS",
    [
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "240.0.0.0/4"),
        *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
        *("::1/128", "fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128", "fd00:42::42/128"),
    ],
)
