"""What the README and the pages in docs/ show is run: job files are read, Python is executed, commands are typed.

Pages that ask a judge find one on loopback in place of the address they show; pages that load a model from the hub find
a tiny one in its place.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from jobs.config.file import read_job_file
from jobs.config.job_types import parse_job
from rmbatch.endpoints.connections import close_all
from rmbatch.judges.principles import load_principles
from tests.judging import judge_server
from tests.servers.s3 import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SERVER, MODEL = "http://host:8000", "Skywork/Skywork-Reward-V2-Llama-3.1-8B"
"""What pages show where a reader has to put something of theirs."""
NOT_HERE = ("make ", "pip install", "git clone", "ray job submit", "ray start")
"""Commands that set something up or need a cluster; other tests and CI run them."""
OF_THIS_RUN = re.compile(r"^(speed|time) ")


class Snippet(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


def snippets(page: Path) -> Iterator[Snippet]:
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: int | None = None
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if opened is None:
                opened = number
            else:
                language = lines[opened - 1].removeprefix("```").split()[:1]
                yield Snippet(page, opened, "".join(language), "\n".join(lines[opened : number - 1]))
                opened = None


ALL = [snippet for page in PAGES for snippet in snippets(page)]


def named(snippet: Snippet) -> str:
    return f"{snippet.page.name}:{snippet.line}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that looks like a clone, where snippets may write; and the addresses that job files name."""
    (tmp_path / "jobs").symlink_to(REPOSITORY / "jobs")
    monkeypatch.chdir(tmp_path)
    for name in ("JUDGE_URL", "WRITER_URL", "EDITOR_URL", "OTHER_URL", "EMBEDDINGS_URL"):
        monkeypatch.setenv(name, SERVER)
    yield tmp_path
    close_all()


def test_there_are_snippets() -> None:
    assert {"yaml", "python", "console"} <= {snippet.language for snippet in ALL}


@pytest.mark.parametrize("snippet", [each for each in ALL if each.language == "yaml"], ids=named)
def test_yaml_is_a_job_or_a_part_of_one(snippet: Snippet, place: Path) -> None:
    data = yaml.safe_load(snippet.text)
    file = place / "job.yaml"
    if "principles" in data and "job" not in data:  # a file of principles
        file.write_text(snippet.text)
        assert load_principles(str(file)).principles
        return
    base: dict[str, Any] = {"job": "score", "input": {"path": "in/"}, "output": {"path": "out/"}}
    base |= {"rewards": {"exact": {"reward": "accuracy"}}}
    if "select" in data:
        base["job"] = "best_of_n"
    file.write_text(yaml.safe_dump(data if "job" in data else base | data))
    read = read_job_file(str(file), [], os.environ)
    assert parse_job(read, str(file)).job == read["job"]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(each.language == "python" for each in snippets(page))],
    ids=lambda page: page.name,
)
def test_python_of_a_page_runs(page: Path, place: Path, request: pytest.FixtureRequest) -> None:
    """All blocks of a page in order, in one interpreter, as a reader would type them."""
    code = "\n".join(each.text for each in snippets(page) if each.language == "python")
    if MODEL in code:
        pytest.importorskip("torch")
        from tests.tiny_models import make_model

        code = code.replace(MODEL, make_model(place / "model", "scalar")).replace(
            "max_length=8192", "engine='transformers', max_length=512"
        )
    with judge_server(lambda seen: {"score": 9}) as server:
        ended = subprocess.run(
            [sys.executable, "-c", code.replace(SERVER, server.url)],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 0, ended.stderr[-2000:]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, and what the page says that it prints."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    for part in parts:
        lines = part.splitlines()
        head = [lines.pop(0)]
        while head[-1].endswith("\\") or len(_quotes(" ".join(head))) % 2:
            head.append(lines.pop(0))
        yield "\n".join(head), [line for line in lines if line.strip()]


def _quotes(text: str) -> str:
    return re.sub(r"[^\"]|\\\"", "", text)


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("snippet", [each for each in ALL if each.language == "console"], ids=named)
def test_command_prints_what_the_page_shows(snippet: Snippet, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Blocks of one page share a folder: a later one reads what an earlier one wrote."""
    place = _FOLDERS.setdefault(snippet.page, tmp_path_factory.mktemp("page"))
    if not (place / "jobs").exists():
        (place / "jobs").symlink_to(REPOSITORY / "jobs")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command, shown in commands(snippet.text):
        if command.startswith(NOT_HERE):
            continue
        ended = subprocess.run(
            command,
            shell=True,
            cwd=place,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, f"{shlex.quote(command)}: {ended.stderr[-2000:]}"
        printed = [line.rstrip() for line in ended.stdout.splitlines()]
        missing = [line for line in shown if line.rstrip() not in printed and not OF_THIS_RUN.match(line)]
        assert not missing, "\n".join(printed)


_FOLDERS: dict[Path, Path] = {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]
