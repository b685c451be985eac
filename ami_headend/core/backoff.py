"""Pauses between attempts: each twice as long as the one before, spread so that not all come at once."""

import random
from datetime import timedelta

_SPREAD = 0.2


def pause(attempts: int, first: timedelta, most: timedelta) -> timedelta:
    """Return how long to wait after so many failed attempts in a row."""
    spread = random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - spreads, hides nothing
    doublings = min(max(attempts, 1) - 1, 16)
    return min(most, first * (1 << doublings)) * spread


def longest(most: timedelta) -> timedelta:
    """Return the longest pause that there can be."""
    return most * (1 + _SPREAD)
