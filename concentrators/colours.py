"""In which colour (a variant of unfold's label) every page shows a state of commands and waves."""

from concentrators.models import CommandState, WaveState

COMMAND_COLOURS = {
    CommandState.HELD: "warning",
    CommandState.QUEUED: "",
    CommandState.OFFERED: "info",
    CommandState.DELIVERED: "info",
    CommandState.DONE: "success",
    CommandState.REFUSED: "danger",
    CommandState.EXPIRED: "danger",
    CommandState.CANCELLED: "warning",
}
WAVE_COLOURS = {
    WaveState.HELD: "warning",
    WaveState.RUNNING: "info",
    WaveState.PAUSED: "warning",
    WaveState.STOPPED: "danger",
    WaveState.FINISHED: "success",
    WaveState.CANCELLED: "",
}
