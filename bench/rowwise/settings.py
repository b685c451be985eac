"""The head-end's settings with the row-by-row view in place of its addresses."""

from ami_headend.settings import *  # noqa: F403

ROOT_URLCONF = "bench.rowwise.urls"
