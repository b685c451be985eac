"""The import contract for SQL: a table is named by the app that owns it, and elsewhere only where a reason stands here.

Statements reach past imports: they would still read key octets, or a column that was renamed, where no import does.
"""

import ast
import re

from django.apps import apps

from tests.test_one_home import production

_OWNERS = {label: f"{label}/" for label in ("keyvault", "meters", "concentrators", "ami_headend")}
_OWNERS |= {label: f"ami_headend/{label}/" for label in ("alerts", "api_tokens", "metrics", "siem", "signin")}

_ALL_AT_ONCE = "an alert, a page or a figure looks over meters and concentrators together, in one statement"
_STORES = "what meters say is stored, moved and counted by concentrator in the statement that reads it"
_NAMES = "rows are listed with the serial number or register that they are of"
ELSEWHERE = {
    "ami_headend/alerts/conditions/keys.py": (
        _ALL_AT_ONCE,
        {"concentrators_command", "concentrators_rotationwave", "concentrators_wavemeter", "meters_meter"},
    ),
    "ami_headend/alerts/conditions/traffic.py": (
        _ALL_AT_ONCE,
        {
            *("concentrators_assignment", "concentrators_concentrator", "concentrators_failuregroup"),
            *("concentrators_integrityfailure", "concentrators_reportedsum", "concentrators_uplink"),
            *("meters_meter", "meters_meterevent", "meters_register"),
        },
    ),
    "ami_headend/alerts/conditions/signed.py": (
        _ALL_AT_ONCE,
        {"keyvault_coupon", "keyvault_couponlist", "keyvault_devicekey", "keyvault_meteridentity", "meters_meter"},
    ),
    "ami_headend/alerts/high_water_marks.py": (_ALL_AT_ONCE, {"concentrators_integrityfailure", "meters_meterevent"}),
    "ami_headend/backup/databases.py": ("the database that is replaced has other tables", {"concentrators_uplink"}),
    "ami_headend/backup/making.py": ("a dump leaves sessions out", {"signin_session"}),
    "ami_headend/console/fleet_queries.py": (_ALL_AT_ONCE, {"concentrators_concentrator", "meters_meter"}),
    "ami_headend/console/group_queries.py": (
        _ALL_AT_ONCE,
        {"concentrators_failuregroup", "keyvault_devicekey", "meters_meter"},
    ),
    "ami_headend/console/registry_queries.py": (
        _ALL_AT_ONCE,
        {
            *("concentrators_assignment", "concentrators_concentrator", "concentrators_failuregroup"),
            *("concentrators_uplink", "meters_earlierlength", "meters_meter"),
        },
    ),
    "ami_headend/console/traffic_queries.py": (
        _ALL_AT_ONCE,
        {"concentrators_concentrator", "concentrators_failuretally", "concentrators_uplink"},
    ),
    "ami_headend/database_roles.py": (
        "tables with other rights than most",
        {
            *("keyvault_agreementkey", "keyvault_approval", "keyvault_auditkey", "keyvault_auditrecord"),
            *("keyvault_authority", "keyvault_backup", "keyvault_devicepublickey", "keyvault_enrolment"),
            "keyvault_maskauthority",
            *("keyvault_revokedcertificate", "keyvault_meteridentity", "keyvault_couponlist", "keyvault_coupon"),
            *("concentrators_feedera", "concentrators_feedhead"),
            *("keyvault_coupondispute", "meters_pushprofile", "meters_signature"),
            *("meters_householdaccess", "meters_maskedreading", "meters_reading", "metrics_uncounted"),
        },
    ),
    "ami_headend/metrics/snapshots.py": (_ALL_AT_ONCE, {"meters_meter"}),
    "concentrators/commands/capture_period.py": (_STORES, {"meters_reading"}),
    "concentrators/commands/downlink.py": (
        "commands are offered under the locks of one statement, by whom a meter was heard through",
        {"keyvault_devicekey", "meters_meter"},
    ),
    "concentrators/feed/names.py": (
        _NAMES,
        {"meters_installation", "meters_meter", "meters_place", "meters_register"},
    ),
    "concentrators/failures/statistics.py": (_NAMES, {"meters_meter"}),
    "concentrators/failures/queries.py": (_NAMES, {"meters_meter"}),
    "concentrators/ingest/register_corrections.py": (
        "a register that what meters said stands on keeps its steps",
        {"meters_archivedmonth", "meters_maskedreading", "meters_meterevent", "meters_reading"},
    ),
    "concentrators/validation/differences.py": (_NAMES, {"meters_meter", "meters_register"}),
    "concentrators/fleet/outages.py": (
        "which meters are out is told by their events, and counted by concentrator",
        {"meters_fleetgroup", "meters_meter", "meters_meterevent", "meters_meteringroup", "meters_register"},
    ),
    "concentrators/fleet/outage_history.py": (_NAMES, {"meters_meter"}),
    "concentrators/fleet/hop_failures.py": (_NAMES, {"meters_meter"}),
    "concentrators/fleet/laboratory.py": ("what raises no alerts is told by the meter and its place", {"meters_meter"}),
    "concentrators/ingest/meter_cache.py": (_STORES, {"meters_earlierlength", "meters_meter"}),
    "concentrators/ingest/length_corrections.py": (_STORES, {"meters_reading"}),
    "concentrators/journal_replay.py": (
        "a command is restored with the version that its key had then",
        {"keyvault_devicekey", "meters_meter"},
    ),
    "concentrators/simulator/truth_readings.py": ("the truth is held against the rows themselves", {"meters_reading"}),
    "concentrators/simulator/truth_masked.py": (
        "the truth is held against the rows themselves",
        {"meters_maskedreading", "meters_meter", "meters_reading"},
    ),
    "concentrators/totals/completeness.py": (
        _STORES,
        {"meters_maskedreading", "meters_meter", "meters_reading", "meters_register"},
    ),
    "concentrators/totals/meter_success.py": (_STORES, {"meters_maskedreading", "meters_reading", "meters_register"}),
    "concentrators/totals/read_success.py": (_STORES, {"meters_maskedreading", "meters_reading", "meters_register"}),
    "concentrators/totals/masked_queries.py": (
        "sets are of values in readings' tables, and named by others",
        {"keyvault_maskauthority", "meters_maskedreading", "meters_register"},
    ),
    "concentrators/totals/masked_sets.py": (_STORES, {"meters_maskedreading", "meters_meter", "meters_register"}),
    "concentrators/totals/mask_collector.py": (_STORES, {"meters_maskedreading", "meters_meter"}),
    "concentrators/totals/expected.py": (_STORES, {"meters_earlierlength", "meters_installation", "meters_meter"}),
    "concentrators/totals/queries.py": (_NAMES, {"meters_register"}),
    "concentrators/totals/reported_sums.py": (
        _STORES,
        {"meters_earlierlength", "meters_meter", "meters_reading", "meters_register"},
    ),
    "concentrators/totals/totals.py": (_STORES, {"meters_maskedreading", "meters_reading"}),
}


def _foreign(path: str, text: str) -> set[str]:
    """The tables of other apps that a module's texts name."""
    ours = [model._meta for model in apps.get_models() if model._meta.app_label in _OWNERS]
    tables = {meta.db_table: _OWNERS[meta.app_label] for meta in ours}
    words = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.update(re.findall(r"\b[a-z]+_[a-z_]+\b", node.value))
    return {word for word in words if word in tables and not path.startswith(tables[word])}


def test_a_statement_names_tables_of_its_own_app_alone() -> None:
    found = {path: tables for path, text in production().items() if (tables := _foreign(path, text))}
    assert found == {path: tables for path, (_, tables) in ELSEWHERE.items()}


def test_statements_look_downward_as_imports_do() -> None:
    order = ["keyvault", "meters", "concentrators", "ami_headend"]
    for path, (_, tables) in ELSEWHERE.items():
        above = order[order.index(path.split("/")[0]) + 1 :]
        assert not [table for table in tables if table.split("_")[0] in above], path
