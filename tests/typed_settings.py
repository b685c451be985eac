"""The settings as the type checker reads them: it imports them, and needs no service and no secret of anybody's."""

import os

for _name, _value in {
    "DATABASE_URL": "postgres://headend@127.0.0.1:1/headend",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "SECRET_KEY": "of no use elsewhere",
}.items():
    os.environ.setdefault(_name, _value)

from ami_headend.settings import *  # noqa: E402, F403 - they are read with what stands above
