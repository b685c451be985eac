"""Acts that take a fresh proof of who acts: a session alone, which may be stolen, does not do.

Which addresses take one is decided where sign-in is (``ami_headend.signin.step_up``: all but those named there). A door
whose act is sensitive only for some of what is sent asks here, once it knows.
"""

from typing import Any


class StepUpNeededError(Exception):
    """The act takes a fresh proof (password or second factor) that this session does not have. Nothing was done."""


def require(request: Any) -> None:
    """StepUpNeededError where the request comes by a session whose owner has shown no proof lately."""
    if not getattr(request, "is_step_up_fresh", False):
        raise StepUpNeededError
