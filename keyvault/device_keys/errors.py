"""What goes wrong with keys that are put into the vault."""


class ProvisioningError(ValueError):
    """A key that cannot be provisioned as asked: the caller's mistake, named."""
