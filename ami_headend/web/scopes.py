"""What tokens of programs open: the scope that each address of the REST API needs.

``NEEDED`` is the only table of it. An address or method that is not in it, or stands there as ``Closed``, is refused to
every token; ``tests/api_tokens/test_scopes.py`` compares it with the addresses that there are.
"""

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from rest_framework import exceptions
from rest_framework.request import Request

REALM = "ami-headend"


class Scope(enum.StrEnum):
    """What a token may be used for (RFC 6749 section 3.3)."""

    READINGS = "readings"
    EVENTS = "events"
    TOTALS = "totals"
    REGISTRY = "registry"
    COMMANDS = "commands"
    FEED = "feed"

    @property
    def meaning(self) -> str:
        """What the scope opens, in words."""
        return _MEANINGS[self]


class Closed(enum.Enum):
    """Who else an address is for."""

    PEOPLE = "people, by session or password"
    CONCENTRATORS = "concentrators, by their own tokens"


_MEANINGS = {
    Scope.READINGS: "values of meters, and which are missing",
    Scope.EVENTS: "events of meters, and alerts",
    Scope.TOTALS: "sums over the meters of a concentrator, also masked ones",
    Scope.REGISTRY: "meters, places and groups, to read",
    Scope.COMMANDS: "commands to meters that carry no key: to give, watch and cancel",
    Scope.FEED: "the feed of what was verified and corrected",
}
# The rights that views ask of an account, which a scope stands for.
_RIGHTS: Mapping[Scope, frozenset[str]] = {
    Scope.READINGS: frozenset({"meters.view_reading"}),
    Scope.EVENTS: frozenset({"meters.view_meterevent", "alerts.view_alert"}),
    Scope.TOTALS: frozenset({"concentrators.view_intervaltotal", "concentrators.view_readdeadline"}),
    Scope.REGISTRY: frozenset({"meters.view_meter", "meters.view_place", "meters.view_fleetgroup"}),
    Scope.COMMANDS: frozenset(f"concentrators.{act}_command" for act in ("view", "add", "delete")),
    Scope.FEED: frozenset(
        {"meters.view_reading", "meters.view_meterevent", "meters.view_place"}  # rows name the place of their meter
        | {"concentrators.view_intervaltotal"}  # how complete a day is
        | {f"concentrators.{act}_feedsubscription" for act in ("view", "change", "delete")}
    ),
}

# By name of the address and method. HEAD is as GET; OPTIONS names methods alone, and needs any scope of its address.
NEEDED: Mapping[tuple[str, str], Scope | Closed] = MappingProxyType(
    {
        ("readings", "GET"): Scope.READINGS,
        ("meter-gaps", "GET"): Scope.READINGS,
        ("register-differences", "GET"): Scope.READINGS,
        ("meter-signatures", "GET"): Scope.READINGS,
        ("green-button", "GET"): Scope.READINGS,
        ("market-document", "GET"): Scope.READINGS,
        ("events", "GET"): Scope.EVENTS,
        ("alerts", "GET"): Scope.EVENTS,
        ("feed-readings", "GET"): Scope.FEED,
        ("feed-events", "GET"): Scope.FEED,
        ("reading-messages", "GET"): Scope.READINGS,
        ("event-messages", "GET"): Scope.EVENTS,
        ("feed-completeness", "GET"): Scope.FEED,
        ("feed-subscriptions", "GET"): Scope.FEED,
        ("feed-subscription", "GET"): Scope.FEED,
        ("feed-subscription", "PUT"): Scope.FEED,
        ("feed-subscription", "DELETE"): Scope.FEED,
        ("outages", "GET"): Scope.EVENTS,
        ("outages-by-group", "GET"): Scope.EVENTS,
        ("outages-past", "GET"): Scope.EVENTS,
        ("outages-meters", "GET"): Scope.EVENTS,
        ("outages", "POST"): Scope.COMMANDS,
        ("totals", "GET"): Scope.TOTALS,
        ("completeness-deadlines", "GET"): Scope.TOTALS,
        ("deadlines", "GET"): Scope.TOTALS,
        ("deadlines", "POST"): Closed.PEOPLE,
        ("deadline", "GET"): Scope.TOTALS,
        ("deadline", "PATCH"): Closed.PEOPLE,
        ("deadline", "DELETE"): Closed.PEOPLE,
        ("deadline-days", "GET"): Scope.TOTALS,
        ("masked-totals", "GET"): Scope.TOTALS,
        ("masked-total-answers", "GET"): Scope.TOTALS,
        ("meters", "GET"): Scope.REGISTRY,
        ("meter", "GET"): Scope.REGISTRY,
        ("places", "GET"): Scope.REGISTRY,
        ("mask-groups", "POST"): Closed.PEOPLE,
        ("places", "POST"): Closed.PEOPLE,
        ("place", "GET"): Scope.REGISTRY,
        ("place", "PATCH"): Closed.PEOPLE,
        ("groups", "GET"): Scope.REGISTRY,
        ("groups", "POST"): Closed.PEOPLE,
        ("group", "GET"): Scope.REGISTRY,
        ("group", "PATCH"): Closed.PEOPLE,
        ("group", "DELETE"): Closed.PEOPLE,
        ("group-members", "POST"): Closed.PEOPLE,
        ("meter-commands", "GET"): Scope.COMMANDS,
        ("meter-commands", "POST"): Scope.COMMANDS,
        ("meter-command", "DELETE"): Scope.COMMANDS,
        ("resends", "POST"): Scope.COMMANDS,
        # Keys, evidence, corrections and tokens: a person answers for these.
        ("keys", "GET"): Closed.PEOPLE,
        ("key-retirement", "POST"): Closed.PEOPLE,
        ("agreement-keys", "GET"): Closed.PEOPLE,
        ("authorities", "GET"): Closed.PEOPLE,
        ("certificates", "GET"): Closed.PEOPLE,
        ("revocations", "GET"): Closed.PEOPLE,
        ("revocations", "POST"): Closed.PEOPLE,
        ("awaited-enrolments", "GET"): Closed.PEOPLE,
        ("awaited-enrolments", "POST"): Closed.PEOPLE,
        ("push-profiles", "GET"): Closed.PEOPLE,
        ("push-profiles", "POST"): Closed.PEOPLE,
        ("push-profile-retirement", "POST"): Closed.PEOPLE,
        ("codes", "GET"): Closed.PEOPLE,
        ("codes", "PUT"): Closed.PEOPLE,
        ("codes", "DELETE"): Closed.PEOPLE,
        ("failures", "GET"): Closed.PEOPLE,
        ("reported-hop-failures", "GET"): Closed.PEOPLE,
        ("clock-corrections", "GET"): Closed.PEOPLE,
        ("clock-corrections", "POST"): Closed.PEOPLE,
        ("held-commands", "GET"): Closed.PEOPLE,
        ("held-commands-one", "GET"): Closed.PEOPLE,
        ("held-commands-one", "POST"): Closed.PEOPLE,
        ("rotations", "GET"): Closed.PEOPLE,
        ("rotations", "POST"): Closed.PEOPLE,
        ("rotation", "GET"): Closed.PEOPLE,
        ("rotation", "PATCH"): Closed.PEOPLE,
        ("feed-delivery", "GET"): Closed.PEOPLE,
        ("feed-delivery", "PUT"): Closed.PEOPLE,
        ("feed-delivery", "DELETE"): Closed.PEOPLE,
        ("feed-delivery-secret", "POST"): Closed.PEOPLE,
        ("api-tokens", "GET"): Closed.PEOPLE,
        ("api-tokens", "POST"): Closed.PEOPLE,
        ("api-token", "DELETE"): Closed.PEOPLE,
        ("api-token-rotation", "POST"): Closed.PEOPLE,
        ("uplinks", "POST"): Closed.CONCENTRATORS,
        ("uplink", "GET"): Closed.CONCENTRATORS,
        ("commands", "GET"): Closed.CONCENTRATORS,
        ("command-receipt", "POST"): Closed.CONCENTRATORS,
        ("hop-keys", "GET"): Closed.CONCENTRATORS,
        ("next-key", "GET"): Closed.CONCENTRATORS,
        ("hop-failures", "POST"): Closed.CONCENTRATORS,
    }
)


class InsufficientScope(exceptions.PermissionDenied):
    """The token is valid, and its scopes do not open this address. ``challenge`` names the one that does."""

    def __init__(self, needed: Scope, given: Iterable[str]) -> None:
        has = ", ".join(given)
        super().__init__(f"This needs a token with the scope {needed}; this one has {has}.")
        self.challenge = f'Bearer realm="{REALM}", error="insufficient_scope", scope="{needed}"'


class Program:
    """The user of a request that came with the token of a program: no account, and no right but those of its scopes."""

    is_authenticated = is_active = True
    is_anonymous = is_staff = is_superuser = False

    def __init__(
        self,
        pk: int,
        name: str,
        scopes: Iterable[str],
        group_ids: Iterable[int] | None = None,
        maker_id: int | None = None,
    ) -> None:
        self.pk, self.name = pk, name
        self.maker_id = maker_id  # the account behind it, for which it cannot be a second person
        self.group_ids = None if group_ids is None else tuple(group_ids)  # of the meters that it is limited to
        self.scopes = tuple(scopes)
        self._rights = frozenset().union(*(_RIGHTS[Scope(scope)] for scope in self.scopes))

    def get_username(self) -> str:
        """Return its name for records. No account has a colon in its name."""
        return f"token:{self.name}"

    def has_perm(self, right: str, row: object = None) -> bool:
        """Whether a scope stands for the right."""
        return right in self._rights

    def has_perms(self, rights: Iterable[str], row: object = None) -> bool:
        """Whether its scopes stand for all the rights."""
        return all(map(self.has_perm, rights))


def check(request: Request, program: Program) -> None:
    """Raise PermissionDenied if the scopes of a program do not open the address of a request by its method."""
    match: Any = request.resolver_match
    needed = needed_for(match.view_name if match else "", request.method or "")
    if not needed:
        raise exceptions.PermissionDenied("This address is not for tokens of programs: no scope opens it.")
    if not set(needed).intersection(program.scopes):
        raise InsufficientScope(needed[0], program.scopes)


def needed_for(name: str, method: str) -> list[Scope]:
    """Return the scopes of which a token needs one; none if no token opens the address by this method."""
    if method == "OPTIONS":
        found = [scope for (address, _), scope in NEEDED.items() if address == name]
    else:
        found = [NEEDED.get((name, "GET" if method == "HEAD" else method), Closed.PEOPLE)]
    return list(dict.fromkeys(scope for scope in found if isinstance(scope, Scope)))
