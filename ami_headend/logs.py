"""The format of log lines, and filters for lines that are not worth reading."""

import logging
from typing import Any

from django.db.models import Model
from django.utils.functional import LazyObject, empty

from ami_headend.core.client_ip import client_address
from ami_headend.core.text import one_line

_BEHIND = "    | "  # begins every continuation line, so that foreign text cannot look like a new record


class LineFormatter(logging.Formatter):
    """Writes one record on one line, whatever a name, an address or an error contains.

    Line breaks and unprintable characters are escaped. A traceback follows on lines that begin with a bar.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        parts = [one_line(self.formatMessage(record))]
        if record.exc_info:  # never ``exc_text``: another handler may have formatted it
            parts += _behind(self.formatException(record.exc_info))
        if record.stack_info:
            parts += _behind(self.formatStack(record.stack_info))
        return "\n".join(parts)


def without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of a refused request; keep it if the head-end itself failed."""
    if record.levelno < logging.ERROR:
        record.exc_info = record.exc_text = None
    return True


def in_one_line(record: logging.LogRecord) -> bool:
    """Drop the traceback of an event that strangers can cause as often as they like."""
    record.exc_info = record.exc_text = None
    return True


def with_sender(record: logging.LogRecord) -> bool:
    """Add to a refused request the number of its account (or concentrator) and its address.

    The name is never logged: what somebody typed as one may be a password.
    """
    request = getattr(record, "request", None)
    is_first_time = not hasattr(record, "sender")  # if logging is set up twice, the filter runs twice
    if request is not None and is_first_time and record.levelno < logging.ERROR:
        vars(record)["sender"] = _sender(request)
        record.msg, record.args = "%s (%s)", (record.getMessage(), vars(record)["sender"])
    return True


def _sender(request: Any) -> str:
    address = client_address(request) or "an unknown address"
    user = getattr(request, "user", None)
    if isinstance(user, LazyObject) and vars(user)["_wrapped"] is empty:  # nobody has looked up the user yet
        return f"not signed in, from {address}"
    if not isinstance(user, Model) or user.pk is None:
        return f"not signed in, from {address}"
    kind = "concentrator" if user._meta.model_name == "concentrator" else "account"
    return f"{kind} {user.pk}, from {address}"


def is_no_routine(record: logging.LogRecord) -> bool:
    """Drop beat's line for each task that it sends every few seconds."""
    return "Sending due task" not in str(record.msg)


def _behind(text: str) -> list[str]:
    return [_BEHIND + one_line(line) for line in text.splitlines()]
