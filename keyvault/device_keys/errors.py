"""The error of provisioning, for every module that stores keys."""


class ProvisioningError(ValueError):
    """A key that cannot be provisioned as asked: the caller's mistake, named in the message."""
