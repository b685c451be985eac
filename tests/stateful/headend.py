"""The head-end under test beside the model of it: its doors, called as web, workers and commands call them."""

from tests.stateful.ground import ACTOR, Effect, clock, real_now
from tests.stateful.pushing import Pushing
from tests.stateful.registry import STRONG, USUAL

__all__ = ["ACTOR", "STRONG", "USUAL", "Effect", "HeadEnd", "clock", "real_now"]


class HeadEnd(Pushing):
    """One head-end with its own database and master key, two workers, and the truth about it."""
