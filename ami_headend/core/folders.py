"""Where the code of the head-end is, and where its files go. The settings import this; it needs none of them."""

from collections.abc import Mapping
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[2]  # the clone, or site-packages
INSTALLED_VAR_DIR = Path("/var/lib/ami-headend")


def var_dir(environ: Mapping[str, str]) -> Path:
    """The folder of AMI_VAR_DIR; without it `var/` in a clone, and /var/lib/ami-headend for an installed package."""
    named = environ.get("AMI_VAR_DIR")
    if named:
        return Path(named)
    return BASE_DIR / "var" if (BASE_DIR / "manage.py").exists() else INSTALLED_VAR_DIR
