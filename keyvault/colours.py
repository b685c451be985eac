"""In which colour (a variant of unfold's label) every page shows the state of a device key."""

from keyvault.models import KeyState

KEY_COLOURS = {
    KeyState.PENDING: "info",
    KeyState.ACTIVE: "success",
    KeyState.RETIRING: "warning",
    KeyState.RETIRED: "",
    KeyState.COMPROMISED: "danger",
}
