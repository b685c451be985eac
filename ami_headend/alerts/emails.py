"""Alerts as e-mail: one plain text message to one address, so that delivery is known for each."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage

from ami_headend.alerts.reminders import MessageType

_WORDS = {MessageType.OPENED: "", MessageType.REMINDED: "still: ", MessageType.RESOLVED: "over: "}


class MailError(Exception):
    """No mail server is configured."""


def send(recipient: str, message_id: str, body: dict[str, Any]) -> None:
    """Send one message. MailError, SMTPException or OSError if it was not taken."""
    subject, text = (_test if body["type"] == MessageType.TEST else _alert)(body)
    send_message(EmailMessage(" ".join(subject.split()), text), recipient, message_id)


def send_message(message: EmailMessage, recipient: str, message_id: str) -> None:
    """Send a message to one address. MailError, SMTPException or OSError if it was not taken."""
    if not settings.EMAIL_URL:
        raise MailError("EMAIL_URL is not set: there is no mail server")
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].strip("<> ") or "localhost"
    message.extra_headers["Message-ID"] = f"<{message_id}@{domain}>"  # the same at every attempt
    message.to = [recipient]
    message.send()


def _test(body: dict[str, Any]) -> tuple[str, str]:
    data = body["data"]
    return (
        "[ami-headend] test",
        f"This is a test of the channel {data['channel']}, requested by {data['asked_for_by']}.\n",
    )


def _alert(body: dict[str, Any]) -> tuple[str, str]:
    data = body["data"]
    word = _WORDS[MessageType(body["type"])]
    subject = f"[ami-headend] {data['severity']}: {word}{data['rule']}: {data['subject']['name']}"
    lines = [
        data["summary"],
        "",
        f"Rule      {data['rule']}",
        f"Subject   {data['subject']['name']}",
        f"Severity  {data['severity']}",
        f"Since     {_moment(data['opened_at'])}",
    ]
    if data["resolved_at"]:
        lines.append(f"Until     {_moment(data['resolved_at'])}")
    if data["url"]:
        lines += ["", f"What to do: {data['url']}"]
    return subject, "\n".join(lines) + "\n"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
