"""Key source ``stored``: the device key itself is wrapped in its row. Pure."""

from keyvault.schemes.lines import KeyInputs, Source


def _device_key(inputs: KeyInputs) -> bytes:
    return inputs.kept


STORED = Source("stored", is_of_fleet=False, device_key=_device_key, reference="random")
