"""Mail by SMTP with one deadline for the whole exchange, from the look-up of the server to its last reply."""

import smtplib
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from django.core.mail.backends.smtp import EmailBackend
from django.core.mail.message import EmailMessage

from ami_headend.core.timed_exchange import Exchange, exchange


class DeadlineEmailBackend(EmailBackend):
    """Django's backend, but the exchange ends after ``EMAIL_TIMEOUT`` seconds, however slowly the server answers.

    It raises ExchangeDeadlineError then, which is an OSError like the other errors of an exchange.
    """

    _this: Exchange

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        with exchange(self.timeout or 10) as self._this:
            return super().send_messages(email_messages)

    @property
    def connection_class(self) -> Callable[..., smtplib.SMTP]:  # type: ignore[override]
        def connect(host: str, port: int, context: ssl.SSLContext | None = None, **more: Any) -> smtplib.SMTP:
            return _Connection(self._this, context, host, port, **more)

        return connect

    def _close_connection(self, connection: smtplib.SMTP) -> None:
        """Send QUIT and ignore errors: the server has already taken the messages."""
        try:
            connection.quit()
        except (ssl.SSLError, smtplib.SMTPException):
            connection.close()


class _Connection(smtplib.SMTP):
    """A connection inside an exchange; over TLS from the start if there is a ``context``."""

    def __init__(self, this: Exchange, context: ssl.SSLContext | None, host: str, port: int, **more: Any) -> None:
        self._this, self._context = this, context
        super().__init__(host, port, **more)

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        self.sock = self._this.connect(self._this.look_up(host, port), port)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=host)
        self.file = None
        return self.getreply()
