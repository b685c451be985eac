"""People at the console: accounts with a role, or with a few rights, signed in."""

from django.contrib.auth.models import Group, Permission, User
from django.test import Client


def person(role: str = "", *, rights: tuple[str, ...] = ()) -> Client:
    """A signed-in client of a person in the role's group, with further rights by their codenames."""
    user = User.objects.create_user(f"{role or 'reader'}-{User.objects.count()}", is_staff=True)
    if role:
        user.groups.add(Group.objects.get(name=role))
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Client()
    client.force_login(user)
    return client
