"""What a restored database has to be told of tokens of programs from the key journal."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.models import User

from ami_headend.api_tokens.models import ApiToken
from keyvault.journal.replay import Apply
from keyvault.journal.replay_keys import move_past


class TokenReplayer:
    """Brings tokens to the state of their last act: what was made is known, what was revoked is refused."""

    @property
    def kinds(self) -> Mapping[str, Apply]:
        return {"api_token": lambda record: _token(*record.body)}

    def conclude(self, now: datetime) -> list[str]:
        return []


def _token(
    number: int,
    name: str,
    created_by: str,
    scopes: Sequence[str],
    digest: bytes,
    previous: bytes | None,
    created_s: float,
    issued_s: float,
    expires_s: float,
    previous_until_s: float | None,
    revoked_s: float | None,
    group_ids: Sequence[int] | None = None,
    maker_id: int | None = None,
    previous_maker_id: int | None = None,
) -> None:
    """Store a token as it was saved; one of its name under another id was never committed.

    An account that the older dump does not have is gone. Older journals name the maker alone.
    """
    mine = {"username": created_by} if maker_id is None else {"pk": maker_id}
    created_at, issued_at, expires_at, previous_until, revoked_at = (
        None if at is None else datetime.fromtimestamp(at, UTC)
        for at in (created_s, issued_s, expires_s, previous_until_s, revoked_s)
    )
    if revoked_at is None:
        ghosts = ApiToken.objects.filter(name=name, revoked_at=None).exclude(pk=number)
        ghosts.update(revoked_at=issued_at)
    row: dict[str, Any] = {
        "name": name,
        "created_by": created_by,
        "maker": User.objects.filter(**mine).first(),
        "previous_maker": None if previous_maker_id is None else User.objects.filter(pk=previous_maker_id).first(),
        "scopes": list(scopes),
        "group_ids": None if group_ids is None else list(group_ids),
        "digest": digest,
        "previous_digest": previous,
        "created_at": created_at,
        "issued_at": issued_at,
        "expires_at": expires_at,
        "previous_until": previous_until,
        "revoked_at": revoked_at,
    }
    ApiToken.objects.update_or_create(pk=number, defaults=row)
    move_past("api_tokens_apitoken", number)
