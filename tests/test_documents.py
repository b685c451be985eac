"""The documents: every link leads somewhere, decisions are dated and listed, settings and front door are whole."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs/adr").glob("0*.md"))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path as documents and docstrings write it: from the root of the repository, or what follows of a folder's name.
_PATH = re.compile(r"(?<![\w/.*<>{}-])(?:[\w-]+/)*[\w-]+\.(?:py|md)\b(?![\w(.-])")
_NOT_OURS = {"first_frame.py", "keyvault/schemes/NAME.py", "meters/contents/NAME.py"}  # the reader writes them
_STATUS = re.compile(r"^Date: \d{4}-\d\d-\d\d\. Status: (proposed|accepted|succeeded by \[|withdrawn)[^\n]*\.$")
_REFERENCE = re.compile(
    r"(amends|amended by|succeeds|succeeded by) ((?:\[\d+\]\([^)]+\)(?: \([^)]*\))?(?:, | and )?)+)"
)
_OPPOSITE = {"amends": "amended by", "amended by": "amends", "succeeds": "succeeded by", "succeeded by": "succeeds"}


def prose(path: Path) -> str:
    """A document without its code, whose brackets are no links."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(
        r"^ {4,}.*$",
        lambda line: line[0] if line[0].lstrip().startswith(("-", "|", "[")) else "",
        text,
        flags=re.MULTILINE,
    )
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path: Path) -> set[str]:
    """What headings are called in addresses."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{target} is not there"
        assert ROOT in found.parents, f"{target} points outside of the repository"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


def test_links_are_found_at_all() -> None:
    assert sum(len(_LINK.findall(prose(path))) for path in DOCUMENTS) > 100
    assert "a-second-persons-approval" in anchors(ROOT / "docs/operations/accounts.md")


def test_files_that_documents_and_code_name_are_there() -> None:
    folders = [name for name in ROOT.iterdir() if name.is_dir() and not name.is_symlink() and name.name[0] != "."]
    code = [path for folder in folders for path in folder.rglob("*.py")]
    notes = [path for folder in folders for path in folder.rglob("*.md")]
    parts = [path.relative_to(ROOT).parts for path in [*code, *notes, *DOCUMENTS, ROOT / "manage.py"]]
    there = {"/".join(one[n:]) for one in parts for n in range(len(one))}
    named = {(path.name, found) for path in [*code, *notes, *DOCUMENTS] for found in _PATH.findall(path.read_text())}
    assert len(named) > 400
    assert {one for one in named if one[1] not in there | _NOT_OURS} == set()


def test_the_index_lists_every_decision_by_its_title() -> None:
    listed = re.findall(
        r"^\| \[(\d+)\]\(([^)]+)\) \| (.*) \|$", (ROOT / "docs/adr/README.md").read_text(), re.MULTILINE
    )
    there = [(path.name, path.read_text().splitlines()[0]) for path in DECISIONS]
    assert [(name, f"# {number}. {title}") for number, name, title in listed] == there
    assert [int(number) for number, _, _ in listed] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_a_date_and_a_status_and_both_ends_know_of_each_other(path: Path) -> None:
    status = path.read_text().splitlines()[2]
    assert _STATUS.match(status), status
    for word, others in ((found[1], found[2]) for found in _REFERENCE.finditer(status)):
        for number, name in re.findall(r"\[(\d+)\]\(([^)]+)\)", others):
            there = (path.parent / name).read_text().splitlines()[2]
            back = [found[2] for found in _REFERENCE.finditer(there) if found[1] == _OPPOSITE[word]]
            assert any(path.name in one for one in back), f"{name} does not say that it is {_OPPOSITE[word]} this one"
            assert name.startswith(f"{int(number):04d}-")


def test_every_variable_is_documented_and_no_other() -> None:
    source = "".join(path.read_text() for path in (ROOT / "ami_headend/settings").glob("*.py"))
    read = set(re.findall(r"""env\.\w+\(\s*"([A-Z0-9_]+)\"""", source)) | {
        "AMI_VAR_DIR",
        "AMI_LOCAL",
        "EMBEDDED_DATA_DIR",
    }
    lines = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs/operations/settings.md").read_text(), re.MULTILINE)
    documented = {name for line in lines for name in re.findall(r"`([A-Z0-9_]+)`", line)}
    assert documented == read


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_are_wrapped(path: Path) -> None:
    is_code = False
    for line in path.read_text().splitlines():
        is_code ^= line.lstrip().startswith("```")
        may_be_long = (
            is_code or line.startswith(("    ", "#", "![", "Date: ")) or line.lstrip().startswith(("|", "```"))
        )
        assert len(line) <= 110 or may_be_long, line


def test_the_hooks_before_a_commit_are_the_linters_of_make() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    of_make = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert of_make is not None
    tools = re.findall(r"^\t\$\(BIN\)/(\S+(?: format| check)?)", of_make[1], re.MULTILINE)
    assert [re.sub(r"^\.venv/bin/| --.*", "", hook["entry"]) for hook in hooks] == tools


def test_the_workflow_runs_what_a_developer_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["ci"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    python = next(step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", ""))
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["requires-python"] == f">={python}"
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text()), form
