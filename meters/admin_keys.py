"""The filter by groups on the lists of keys: keyvault knows meters by their titles alone, and no groups."""

from functools import partial
from typing import Any

from django.contrib import admin

import keyvault.admin  # noqa: F401 - it registers the lists
from keyvault.models import DeviceKey, DownlinkCounter, InvocationCounter, TagFailures
from meters.admin_groups import group_filter
from meters.registry import groups

for model, column in (
    (DeviceKey, "system_title"),
    (InvocationCounter, "key__system_title"),
    (DownlinkCounter, "key__system_title"),
    (TagFailures, "key__system_title"),
):
    pages: Any = admin.site.get_model_admin(model)
    pages.list_filter = [group_filter(partial(groups.of_titles, column=column)), *pages.list_filter]
