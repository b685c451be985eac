"""Settings by subject. Every deployment choice is an environment variable; docs/operations/settings.md lists them."""

from ami_headend.settings.alerts import *
from ami_headend.settings.celery import *
from ami_headend.settings.console import *
from ami_headend.settings.databases import *
from ami_headend.settings.environment import *
from ami_headend.settings.headend import *
from ami_headend.settings.logs import *
from ami_headend.settings.security import *
from ami_headend.settings.siem import *
from ami_headend.settings.single_sign_on import *
from ami_headend.settings.web import *
