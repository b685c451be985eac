"""One module writes the columns that say which uplinks are tried, when and by which way."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OWNER = ROOT / "concentrators" / "ingest" / "uplink_state.py"
OWNED = {"due_at", "claims", "begun", "attempts", "last_error", "progress", "verified_at"}
_OF_UPLINKS_ALONE = {"claims", "begun", "verified_at"}
_WRITES = ("update", "create", "bulk_create", "bulk_update", "get_or_create", "update_or_create")


def written_in_sql(text: str) -> Iterator[str]:
    """The columns of uplinks that the statements of a text set."""
    for columns in re.findall(r"INSERT\s+INTO\s+concentrators_uplink\s*\((.*?)\)", text, re.DOTALL):
        yield from re.findall(r"\w+", columns)
    for assignments in re.findall(r"UPDATE\s+concentrators_uplink\b(.*?)(?:\bWHERE\b|\bFROM\b|$)", text, re.DOTALL):
        yield from re.findall(r"(\w+)\s*=", assignments)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def written_in_python(text: str) -> Iterator[str]:
    """The columns that calls on the model set."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg or "**" for keyword in node.keywords}
            if isinstance(node.func, ast.Attribute) and node.func.attr in _WRITES:
                yield from keywords if _root(node.func) == "Uplink" else keywords & _OF_UPLINKS_ALONE
            elif isinstance(node.func, ast.Name) and node.func.id == "Uplink":
                yield from keywords


def written(path: Path) -> set[str]:
    text = path.read_text()
    return {*written_in_sql(text), *written_in_python(text)}


def modules() -> list[Path]:
    found = [
        path for app in ("ami_headend", "concentrators", "keyvault", "meters") for path in (ROOT / app).rglob("*.py")
    ]
    return [path for path in found if "migrations" not in path.parts]


def test_nobody_else_writes_them() -> None:
    writers = {str(path.relative_to(ROOT)): written(path) & OWNED for path in modules() if path != OWNER}
    assert {path: columns for path, columns in writers.items() if columns} == {}


def test_the_owner_writes_each_of_them() -> None:
    assert written(OWNER) >= OWNED


@pytest.mark.parametrize(
    "text",
    [
        '"""UPDATE concentrators_uplink SET body = NULL, due_at = now() WHERE id = 1"""',
        '"""UPDATE concentrators_uplink u\n SET due_at = n.at FROM n"""',
        '"INSERT INTO concentrators_uplink (id, due_at) VALUES (1, 2)"',
        "Uplink.objects.filter(pk=1).update(due_at=None)",
        "Uplink(due_at=None)",
        "rows.update(begun=F('begun') + 1)",
    ],
)
def test_a_write_is_found(text: str) -> None:
    assert OWNED & {*written_in_sql(text), *written_in_python(text)}
