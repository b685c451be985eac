"""Health of the head-end's components, as a worker or a web host that stood in for them found it."""

from ami_headend.console.formatting import duration
from ami_headend.health import components as health
from ami_headend.health.results import CheckResult

SEE_COMPONENTS = "ami_headend.view_components"


def components() -> list[CheckResult]:
    """Return what was found last; if that is too old, what this process finds by itself."""
    standing = health.standing()
    if not standing.is_fresh:
        return health.unchecked("" if standing.age_s is None else f" for {duration(standing.age_s)}")
    age = duration(standing.age_s or 0.0)
    return [CheckResult("checks", True, f"all this was checked {age} ago"), *standing.results]
