"""What an operator is told: alerts at a receiver of webhooks on the runner's own host, and figures for Prometheus."""

import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import OperationalError, connection, transaction
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from ami_headend.alerts import channels
from ami_headend.alerts.models import Alert, AlertStep, Channel, ChannelKind, Condition, Conversation, Delivery, Rule
from concentrators.models import Concentrator
from keyvault.audit.chain import Actor
from tests.alerts.receiver import Receiver, receiving
from tests.rack import services
from tests.rack.hosts import OURS
from tests.rack.rack import Rack


class Operator:
    """Whoever gets the alerts of the rack, from the severity of warnings on."""

    def __init__(self, rack: Rack, receiver: Receiver) -> None:
        self._rack, self._receiver = rack, receiver
        self._seen = 0

    def begin(self) -> None:
        """Begin a cell: the concentrators of earlier ones are silent for good, and nobody is to be told of them."""
        self.forget()
        Concentrator.objects.update(is_active=False)

    def forget(self) -> None:
        """Forget what was told before: the same trouble is new, and told at once."""
        while True:
            with suppress(OperationalError):  # a deadlock with an evaluation
                self._delete()
                break
        self._seen = len(self._receiver.messages)

    @staticmethod
    def _delete() -> None:
        models = (Delivery, Conversation, AlertStep, Alert)
        with transaction.atomic(), connection.cursor() as cursor:  # the deployment goes on evaluating
            tables = ", ".join(model._meta.db_table for model in models)
            cursor.execute(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")
            for model in models:
                model.objects.all().delete()

    def is_told(self, what: str) -> bool:
        """Whether an alert of a component or of a condition came."""
        return self._has("alert.opened", what)

    def is_told_of_the_end(self, what: str) -> bool:
        """Whether the last that came of it is its end."""
        return self._last_of(what) == "alert.resolved"

    def told(self) -> set[str]:
        """The components that alerts came of."""
        opened = [one["data"] for one in self._receiver.messages[self._seen :] if one["type"] == "alert.opened"]
        return {one["subject"]["name"] for one in opened if one["condition"] == Condition.COMPONENT_DOWN}

    def _has(self, kind: str, what: str) -> bool:
        return kind in self._types(what)

    def _last_of(self, what: str) -> str:
        return (self._types(what) or [""])[-1]

    def _types(self, what: str) -> list[str]:
        # By alerts, and of each as they came: the clocks of hosts that send them may be minutes apart.
        messages = sorted(self._receiver.messages[self._seen :], key=lambda one: int(one["data"]["id"]))
        return [one["type"] for one in messages if what in (one["data"]["subject"]["name"], one["data"]["condition"])]

    def figure(self, name: str, **labels: str) -> float | None:
        """A metric, from a web host that answers; None if none has it."""
        for host in self._rack.webs:
            address = f"http://{host.address}:{services.WEB_PORT}/metrics"
            headers = {"Authorization": f"Bearer {self._rack.metrics_token}"}
            request = urllib.request.Request(address, headers=headers)
            with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                for family in text_string_to_metric_families(answer.read().decode()):
                    for sample in family.samples:
                        if sample.name == name and sample.labels == labels:
                            return sample.value
        return None


@contextmanager
def operator(rack: Rack) -> Iterator[Operator]:
    """An operator who is told at once: the rules wait for nothing."""
    Rule.objects.filter(condition=Condition.COMPONENT_DOWN).update(period_minutes=0)
    Rule.objects.filter(condition=Condition.SILENT_CONCENTRATOR).update(period_minutes=1)
    with receiving(host=OURS) as receiver:
        channel = Channel(name=f"rack {secrets.token_hex(4)}", kind=ChannelKind.WEBHOOK, address=receiver.url)
        receiver.secret = channels.save(channel, Actor("rack", OURS), timezone.now()) or ""
        yield Operator(rack, receiver)
