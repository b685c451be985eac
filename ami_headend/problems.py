"""Stub, being replaced."""
from rest_framework.permissions import DjangoModelPermissions


class ViewPermission(DjangoModelPermissions):
    pass


def exception_handler(exc, context):
    return None
