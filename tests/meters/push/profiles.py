"""Definitions of profiles for the frames of the data file, as the operators' papers would give them."""

from typing import Any

from meters.readings.push.definition import Kind

# Scalers and units as the entries say them: in ``profile``, ``profile_hint``, ``template`` or a note.
KAMSTRUP_UNITS = {
    "1.8.0": ("Wh", 1), "2.8.0": ("Wh", 1), "3.8.0": ("varh", 1), "4.8.0": ("varh", 1), "1.7.0": ("W", 0),
    "2.7.0": ("W", 0), "3.7.0": ("var", 0), "4.7.0": ("var", 0), "31.7.0": ("A", -2), "51.7.0": ("A", -2),
    "71.7.0": ("A", -2), "32.7.0": ("V", 0), "52.7.0": ("V", 0), "72.7.0": ("V", 0),
}  # fmt: skip


def kamstrup(expected: list[dict[str, Any]]) -> dict[str, Any]:
    """Lists of Kamstrup: no scaler, no unit, codes of channel 1, standard time all year."""
    columns: list[dict[str, Any]] = []
    for one in expected:
        if "raw" in one:
            short = one["obis"].partition(":")[2]
            if short in KAMSTRUP_UNITS:
                unit, scaler = KAMSTRUP_UNITS[short]
                columns.append({"obis": one["obis"], "register": f"1-0:{short}", "scaler": scaler, "unit": unit})
            else:
                columns.append({"obis": one["obis"], "ignore": True})
    return {"kind": Kind.OBIS, "clock": {"from": "apdu", "zone": "fixed+60", "invalid_bit": "keep"}, "columns": columns}


def landis_gyr(expected: list[dict[str, Any]]) -> dict[str, Any]:
    """The E450's list: no scaler, no unit; a clock without deviation."""
    units = {"1.8": "Wh", "2.8": "Wh", "3.8": "varh", "4.8": "varh", "1.7": "W", "2.7": "W"}
    columns: list[dict[str, Any]] = []
    for one in expected:
        if "raw" in one:
            unit = units.get(one["obis"].partition(":")[2].rpartition(".")[0])
            columns.append({"obis": one["obis"]} | ({"scaler": 0, "unit": unit} if unit else {"ignore": True}))
    return {"kind": Kind.OBIS, "clock": {"from": "apdu", "zone": "Europe/Zurich"}, "columns": columns}


_APDU_CLOCK = {"from": "apdu"}
BY_NAME: dict[str, dict[str, Any]] = {
    "amshan_kaifa_no_list_1": {
        "kind": "positional",
        "clock": {"from": "apdu", "zone": "Europe/Oslo"},
        "columns": [{"at": 0, "obis": "1-0:1.7.0", "scaler": 0, "unit": "W"}],
    },
    "amshan_hdlc_frame_with_flag_sequence_character_in_info": {
        "kind": "positional",
        "clock": {"from": "apdu", "zone": "Europe/Oslo"},
        "columns": [{"at": 0, "obis": "1-0:1.7.0", "scaler": 0, "unit": "W"}],
    },
    "amshan_kaifa_no_list_2": {
        "kind": "positional",
        "clock": {"from": "apdu", "zone": "Europe/Oslo"},
        "columns": [{"at": at, "ignore": True} for at in range(3)]
        + [
            {"at": at, "obis": obis, "scaler": scaler, "unit": unit}
            for at, obis, unit, scaler in (
                (3, "1-0:1.7.0", "W", 0),
                (4, "1-0:2.7.0", "W", 0),
                (5, "1-0:3.7.0", "var", 0),
                (6, "1-0:4.7.0", "var", 0),
                (7, "1-0:31.7.0", "A", -3),
                (8, "1-0:51.7.0", "A", -3),
                (9, "1-0:71.7.0", "A", -3),
                (10, "1-0:32.7.0", "V", -1),
                (11, "1-0:52.7.0", "V", -1),
                (12, "1-0:72.7.0", "V", -1),
            )
        ],
    },
    "positional": {
        "kind": "positional",
        "clock": _APDU_CLOCK,
        "columns": [
            {"at": 0, "ignore": True},
            {"at": 1, "obis": "1-0:1.8.0", "scaler": 0, "unit": "Wh"},
            {"at": 2, "obis": "1-0:2.8.0", "scaler": 0, "unit": "Wh"},
            {"at": 3, "obis": "1-0:1.7.0", "scaler": 0, "unit": "W"},
        ],
    },
    "nulls_for_missing_phase": {
        "kind": "obis",
        "clock": _APDU_CLOCK,
        "columns": [
            {"obis": "1-0:1.8.0", "scaler": 0, "unit": "Wh"},
            {"obis": "1-0:32.7.0", "scaler": 0, "unit": "V"},
        ],
    },
    "push_object_list": {
        "kind": "pushlist",
        "clock": {"from": "0-0:1.0.0"},
        "columns": [{"obis": "1-0:1.6.0", "scaler": 0, "unit": "W"}],
    },
    "push_object_list_6": {
        "kind": "pushlist",
        "clock": _APDU_CLOCK,
        "columns": [{"obis": "1-0:1.8.0", "scaler": 0, "unit": "Wh"}],
    },
    "profile_buffer": {
        "kind": "profile_buffer",
        "clock": _APDU_CLOCK,
        "period_s": 900,
        "columns": [
            {"at": 0, "is": "clock"},
            {"at": 1, "ignore": True},
            {"at": 2, "obis": "1-0:1.8.0", "scaler": 0, "unit": "Wh"},
        ],
    },
    "compact_array": {
        "kind": "compact",
        "clock": {"from": "body[0]"},
        "period_s": 900,
        "columns": [{"at": 0, "ignore": True}, {"at": 1, "obis": "1-0:1.8.0", "scaler": 0, "unit": "Wh"}],
    },
    "compact_array_octets": {
        "kind": "compact",
        "clock": _APDU_CLOCK,
        "columns": [{"at": 0, "is": "clock"}, {"at": 1, "obis": "1-0:1.29.0", "scaler": 0, "unit": "Wh"}],
        "interval_time": "start",
    },
    "delta_array": {
        "kind": "compact",
        "clock": {"from": "body[0]"},
        "period_s": 900,
        "columns": [{"at": 0, "obis": "1-0:1.8.0", "scaler": 0, "unit": "Wh"}],
    },
    "p1_telegram": {
        "kind": "p1",
        "clock": {"from": "0-0:1.0.0", "zone": "Europe/Vienna"},
        "columns": [{"obis": "0-0:42.0.0", "is": "system_title"}],
    },
}
BY_NAME["profile_null_times"] = BY_NAME["profile_buffer"]


def definition_for(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """The definition for the notification of an entry."""
    if name in BY_NAME:
        return BY_NAME[name]
    if "kamstrup" in name:
        return kamstrup(said["expected"])
    if "landis_gyr_e450" in name:
        return landis_gyr(said["expected"])
    if name == "amshan_aidon_se_list":
        return {"kind": "obis", "clock": {"from": "0-0:1.0.0", "zone": "fixed+60"}}
    if name.startswith("hasm_"):  # powers and energies without scaler and unit
        units = {"1.7.0": "W", "2.7.0": "W", "1.8.0": "Wh", "2.8.0": "Wh", "3.8.0": "varh", "4.8.0": "varh"}
        columns = [{"obis": f"1-0:{code}", "scaler": 0, "unit": unit} for code, unit in units.items()]
        return {"kind": "obis", "clock": {"from": "apdu"}, "columns": columns}
    return {"kind": "obis", "clock": {"from": "apdu"}}
