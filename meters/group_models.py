"""Groups of meters, places and concentrators (district, feeder, route), and who is in them. A tag is a group, too.

``meters/registry/groups.py`` asks who is in a group; docs/adr/0043-groups.md says why it is stored so.
"""

from django.db import models
from django.db.models import Q

from ami_headend.core.names import Alike, NameField

TAG = "tag"  # the kind of groups that are tags


class FleetGroup(models.Model):
    """A group by its kind and name, unique together. A tag has the kind ``tag``, and is written as its name alone."""

    kind = NameField(max_length=40, help_text="a word such as district, feeder or route")
    name = NameField(max_length=120)
    note = NameField(max_length=250, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "group"
        constraints = [
            models.UniqueConstraint(
                Alike("kind"),
                Alike("name"),
                name="fleet_group_alike",
                violation_error_message="There is a group of this kind and name, or one that looks like it, already.",
            ),
            models.CheckConstraint(
                # A name without a kind is a tag, which must not look like a kind with a name.
                condition=Q(kind__regex="^[^:|]+$")
                & Q(name__regex="^[^|]+$")
                & (~Q(kind=TAG) | Q(name__regex="^[^:|]+$")),
                name="fleet_group_written",
                violation_error_message="Kind and name hold no |, and a kind or a tag no colon.",
            ),
        ]

    def __str__(self) -> str:
        return self.name if self.kind == TAG else f"{self.kind}:{self.name}"


class Via(models.IntegerChoices):
    """Why a meter is in a group: somebody put it there, or its present place or concentrator is in the group."""

    METER = 0, "itself"
    PLACE = 1, "its place"
    CONCENTRATOR = 2, "its concentrator"


class MeterInGroup(models.Model):
    """A meter is in a group, and why. Those via a place or a concentrator are kept by triggers, as of now.

    No foreign key of the database to the meter: it would cost a look-up a row, and meters are never deleted.
    """

    pk = models.CompositePrimaryKey("group_id", "meter_id", "via")
    group = models.ForeignKey(FleetGroup, models.CASCADE, related_name="+", db_index=False)
    meter = models.ForeignKey("meters.Meter", models.DO_NOTHING, db_constraint=False, related_name="+")
    via = models.SmallIntegerField(choices=Via)

    def __str__(self) -> str:
        return f"meter {self.meter_id} in {self.group_id}"


class PlaceInGroup(models.Model):
    """A place is in a group; the meter that hangs there is in it, too."""

    pk = models.CompositePrimaryKey("group_id", "place_id")
    group = models.ForeignKey(FleetGroup, models.CASCADE, related_name="+", db_index=False)
    # Without the database's own check, which would lock the place: installing a meter locks it, too.
    place = models.ForeignKey("meters.Place", models.CASCADE, db_constraint=False, related_name="+")

    def __str__(self) -> str:
        return f"place {self.place_id} in {self.group_id}"
