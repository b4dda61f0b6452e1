"""The alignment library: RM-Gallery's names and ours, a file for each topic, and the page of them."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from rmbatch.judges.library import LIBRARY, TOPICS, LibraryEntry, is_judge
from rmbatch.judges.page import write_page
from rmbatch.judges.principles import PrincipleSet, load_principles

ROOT = Path(__file__).parents[3]

BASES = ("helpfulness", "harmlessness", "honesty")
TASKS = (
    *("safety", "factuality", "focus", "math", "precise_if", "chat", "generation", "summarization", "brainstorming"),
    *("translation", "role_playing", "classification", "closed_qa", "code", "open_qa", "reasoning", "rewrite"),
)
RM_GALLERY = {
    **{f"base_{topic}_{kind}": (kind, topic) for topic in BASES for kind in ("listwise", "pointwise")},
    **{f"{topic}_listwise_reward": ("listwise", topic) for topic in TASKS},
}
OURS = {f"{topic}_pointwise_reward": ("pointwise", topic) for topic in TASKS}


def test_all_names_of_rm_gallery_are_there_and_ours() -> None:
    assert len(RM_GALLERY) == 23
    assert {name: (entry.kind, entry.topic) for name, entry in LIBRARY.items()} == {**RM_GALLERY, **OURS}


def test_a_name_is_found_or_its_nearest_are_named() -> None:
    assert is_judge("role_playing_listwise_reward")
    assert LIBRARY["base_honesty_pointwise"] == LibraryEntry("pointwise", "honesty", TOPICS["honesty"])
    assert not is_judge("helpfulness")  # a topic, which says nothing about how


def test_each_topic_has_a_file_and_each_file_a_topic() -> None:
    packaged = files("rmbatch.judges").joinpath("topics")
    assert {entry.name for entry in packaged.iterdir()} == {f"{topic}.yaml" for topic in TOPICS}


def sets() -> list[PrincipleSet]:
    return [load_principles(topic) for topic in TOPICS]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_says_what_counts_in_a_few_principles_of_a_sentence_or_two(topic: str) -> None:
    found = load_principles(topic)
    assert found.topic == topic
    assert found.about.startswith("What counts is whether ")
    assert found.about.endswith(".")
    assert 3 <= len(found.principles) <= 6
    for principle in found.principles:
        assert principle.name
        assert not principle.name.endswith(".")
        assert principle.text.endswith(".")
        assert len(principle.text.split()) <= 60
        assert "  " not in principle.text  # a seam in the YAML
        assert not re.search("[<>*`_{}]", principle.text)  # would be markup on the page or in a prompt
    assert found.provenance == {}


def test_no_two_principles_of_the_library_say_the_same() -> None:
    texts = [principle.text.casefold() for each in sets() for principle in each.principles]
    assert len(set(texts)) == len(texts)
    assert len({each.digest for each in sets()}) == len(TOPICS)


def test_sources_are_written_alike_and_can_be_looked_up() -> None:
    sources = {principle.source for each in sets() for principle in each.principles if principle.source}
    number = re.compile(r"[A-Z]\w+ et al\. 20(\d\d), \".+\", arXiv (\d\d)(0[1-9]|1[0-2])\.\d{5}")
    for source in sources:
        found = number.fullmatch(source)
        assert found, source
        assert found[1] == found[2], f"{source}: the year is not the number's"
    assert len({source.rpartition(" ")[2] for source in sources}) == len(sources)  # one paper, one way to cite it


def test_the_table_is_cheap() -> None:
    script = "import sys, rmbatch.judges.library; print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"pydantic", "yaml", "pyarrow", "numpy", "openai", "jinja2", "ray"} & set(ended.stdout.split())


def test_the_committed_page_is_what_the_command_prints() -> None:
    committed = (ROOT / "docs" / "alignment.md").read_text(encoding="utf-8")
    assert committed == write_page(), "run: python -m rmbatch.judges.page > docs/alignment.md"
    command = [sys.executable, "-m", "rmbatch.judges.page"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode() == committed


def test_the_page_has_every_name_and_principle_and_its_example_is_a_principle_file(tmp_path: Path) -> None:
    whole = write_page()
    assert all(f"`{name}`" in whole for name in LIBRARY)
    assert all(principle.text in whole for each in sets() for principle in each.principles)
    examples = re.findall("```yaml\n(.*?)```", whole, re.DOTALL)
    (job,), (own,) = ([text for text in examples if text.startswith(key)] for key in ("rewards:", "topic:"))
    assert is_judge(yaml.safe_load(job)["rewards"]["helpful"]["judge"])
    path = tmp_path / "support.yaml"
    path.write_text(own, encoding="utf-8")
    assert load_principles(str(path)).topic == "support"
