"""The floors: who may import whom, who may know Ray, and what an import may cost; read from the source itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 500

MAY_IMPORT = {
    "connectors": {"connectors"},
    "cluster": {"cluster", "connectors"},
    "rmbatch": {"rmbatch", "connectors"},
    "jobs": {"jobs", "rmbatch", "cluster", "connectors"},
}
"""jobs → rmbatch → connectors, with cluster beside rmbatch."""

FACE = ("rmbatch/__init__.py", "rmbatch/trainers.py", "rmbatch/trl.py", "rmbatch/verl.py")
"""What users and trainers import: above all floors, though Python wants it in the folder of one. It may import any of
them, and none of them imports it."""

FLOORS = (
    ("settings",),
    ("selection", "rows", "costs", "endpoints", "sandbox"),
    ("stores", "rewards"),
    ("chat", "reward_models", "evaluation"),
    ("judges", "generation", "adapters"),
    ("correction",),
    ("stages",),
    ("discovery", "doctor", "exports", "inspection"),
    ("reports",),
    ("pipeline",),
    ("training",),
)
"""Packages of rmbatch, the ground first; one imports only what lies below it."""
ROOMS_OF_JOBS = ("config", "show", "run", "")
"""Packages of jobs, the lowest first; then the kinds of jobs and the command line themselves."""

KNOW_RAY = (
    *("rmbatch/pipeline/on_ray.py", "rmbatch/pipeline/source.py", "rmbatch/pipeline/actors/"),
    *("cluster/local.py", "cluster/ray_jobs.py"),
)
"""Where ray may be imported, even inside a function."""


def modules() -> list[str]:
    """The source files of the four floors, as paths from the repository's root."""
    return sorted(str(path.relative_to(ROOT)) for floor in MAY_IMPORT for path in (ROOT / floor).rglob("*.py"))


def imports(path: str) -> Iterator[tuple[int, str]]:
    """Line and full module name of each import, also of those inside functions and under TYPE_CHECKING."""
    package = Path(path).parent.parts
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join([*above, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            named = node.args[0]
            if isinstance(named, ast.Constant):
                yield node.lineno, str(named.value)


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


def test_there_is_something_to_look_at() -> None:
    assert len(modules()) > 30
    assert {path.split("/")[0] for path in modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", sorted(set(modules()) - set(FACE)))
def test_a_floor_imports_only_what_lies_below_it(path: str) -> None:
    floor = path.split("/")[0]
    others = set(MAY_IMPORT) - MAY_IMPORT[floor]
    wrong = [
        f"{path}:{line} imports {name}" for line, name in imports(path) if name.split(".")[0] in others | {"tests"}
    ]
    assert not wrong


def graph() -> dict[str, set[str]]:
    """The modules that each module imports, also inside functions, as paths."""
    known, found = set(modules()), {}
    for path in modules():
        found[path] = set()
        for _, name in [*imports(path), *imported_modules(path)]:
            place = name.replace(".", "/")
            found[path] |= {each for each in (f"{place}.py", f"{place}/__init__.py") if each in known} - {path}
    return found


def imported_modules(path: str) -> Iterator[tuple[int, str]]:
    """Line and name of each ``from package import module``."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def test_no_circle_of_imports() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError, which names the circle


def floor_of(path: str) -> int:
    """Which of the floors of rmbatch or jobs a module is on."""
    parts = path.split("/")
    if parts[0] == "jobs":
        return ROOMS_OF_JOBS.index(parts[1] if len(parts) > 2 else "")
    return next(number for number, rooms in enumerate(FLOORS) if parts[1] in rooms)


@pytest.mark.parametrize("top", ["rmbatch", "jobs"])
def test_no_package_imports_one_above_it_or_beside_it(top: str) -> None:
    inside = {
        path: {each for each in found if each.startswith(f"{top}/") and each not in FACE}
        for path, found in graph().items()
        if path.startswith(f"{top}/") and path not in FACE
    }
    wrong = [
        f"{path} imports {each}"
        for path, found in inside.items()
        for each in found
        if each.split("/")[1] != path.split("/")[1] and floor_of(each) >= floor_of(path) and len(each.split("/")) > 2
    ]
    assert not wrong


@pytest.mark.parametrize("path", sorted(set(modules()) - set(FACE)))
def test_no_floor_imports_the_face(path: str) -> None:
    faces = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in FACE}
    wrong = [f"{path}:{line} imports {name}" for line, name in imports(path) if name in faces - {"rmbatch"}]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "rmbatch":
            wrong += [f"{path}:{node.lineno} imports {name.name}" for name in node.names if not is_module(name.name)]
        if isinstance(node, ast.Import):
            wrong += [f"{path}:{node.lineno} imports rmbatch" for name in node.names if name.name == "rmbatch"]
    assert not wrong


def is_module(name: str) -> bool:
    """Whether this is a module of rmbatch that is no part of the face."""
    below = {
        Path(path).parts[1].removesuffix(".py") for path in set(modules()) - set(FACE) if path.startswith("rmbatch/")
    }
    return name in below


@pytest.mark.parametrize("path", modules())
def test_few_modules_know_ray(path: str) -> None:
    wrong = [f"{path}:{line} imports {name}" for line, name in imports(path) if name.split(".")[0] == "ray"]
    assert path.startswith(KNOW_RAY) or not wrong


@pytest.mark.parametrize("path", modules())
def test_a_module_is_short_documented_and_catches_what_it_names(path: str) -> None:
    text, module = (ROOT / path).read_text(encoding="utf-8"), parsed(path)
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(module), f"{path} says nothing about itself"
    bare = [node.lineno for node in ast.walk(module) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not bare, f"{path} has a bare except in line {bare[0]}"


def loaded_by(statement: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after the statement."""
    script = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


HEAVY = {"ray", "torch", "vllm", "openai", "transformers"}
EVERY_REWARD = """
from tests.rmbatch.rewards.every import RULES, made
for name in RULES:
    made(name).evaluate({"responses": ["4"], "reference": "4"})
"""


@pytest.mark.parametrize(
    "statement", [EVERY_REWARD, "import rmbatch.stages.score, rmbatch.stages.select", "import jobs.cli"]
)
def test_scoring_without_ray_loads_no_ray(statement: str) -> None:
    assert not loaded_by(statement) & HEAVY  # rmbatch --help comes at once, a notebook needs no cluster


def test_importing_rmbatch_is_light() -> None:
    loaded = loaded_by("import rmbatch, rmbatch.rewards")
    assert not loaded & (HEAVY | {"pyarrow", "polars", "sympy", "numpy", "pydantic"})


def test_the_names_of_rewards_load_only_what_is_asked_for() -> None:
    statement = "from rmbatch.rewards import Scores, reward; import rmbatch; assert rmbatch.Scores is Scores"
    assert not loaded_by(statement) & (HEAVY | {"polars", "sympy"})
