"""Acts that need a fresh proof of identity, because a session alone may be stolen.

``ami_headend.signin.step_up`` decides which addresses need one: all but those it names. A door whose act is sensitive
only for some input calls ``require`` once it knows.
"""

from typing import Any


class StepUpNeededError(Exception):
    """The act needs a fresh proof (password or second factor), which this session lacks. Nothing was done."""


def require(request: Any) -> None:
    """StepUpNeededError if the request belongs to a session without a recent proof."""
    if not getattr(request, "is_step_up_fresh", False):
        raise StepUpNeededError
