"""The page of the alignment library's judges and their principles: ``docs/alignment.md``."""

import re
from collections.abc import Iterator

from rmbatch.judges.library import LIBRARY, TOPICS
from rmbatch.judges.principles import PrincipleSet, load_principles

_HEAD = """# Judges for alignment

Made from the library itself by `python -m rmbatch.judges.page > docs/alignment.md`; do not edit it here.

These judges have a name and principles; whom they ask is up to you. A pointwise judge says which principles a response
violates, and the score is 1 minus their share (with `score: scale` it gives a number). A listwise judge compares the
responses to one prompt; the best has 1, the others 0 (with `score: ranking`, all get their place). In a job file:

```yaml
rewards:
  helpful: {judge: base_helpfulness_pointwise, endpoint: "${JUDGE_URL}", model: Qwen/Qwen3-32B}
```

In Python:

```python
import rmbatch

helpful = rmbatch.judge("base_helpfulness_pointwise", endpoint="http://host:8000", model="Qwen/Qwen3-32B")
helpful.evaluate({"prompt": "What is 2 + 2?", "response": "4"})
```

Any other judge takes the same principles by their topic: `{judge: pairwise, principles: helpfulness, …}`.

## Principles of your own

`principles:` takes a topic of the list below, a list of sentences, or the path of a file that ends in `.yaml`:

```yaml
topic: support
about: What counts is whether our support could send the response to the customer as it is.
version: 1
principles:
  - name: names the next step
    text: The response ends with one thing that the customer or we do next, and says when.
    source: Support handbook, chapter 3
  - name: no internal names
    text: The response holds no name of an internal system, team or ticket.
```

A judge is shown `about`, and of each principle `name` (which may be left out) and `text`. Write principles of which a
reader of prompt and response alone can say whether they are violated, and say nothing twice, for it would count twice.
`source` says where an idea comes from, and `provenance` (any keys and values) how a generated file came to be; no judge
sees these.

## Names

The listwise names and the `base_…_pointwise` ones are RM-Gallery's; the other pointwise ones are added here. The two of
a line have the same principles.

| pointwise | listwise | a good response … |
|---|---|---|"""

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
_LINK = r"[arXiv \1](https://arxiv.org/abs/\1)"


def write_page() -> str:
    """The whole page, Markdown."""
    parts = [line for topic in TOPICS for line in _section(topic, load_principles(topic))]
    return "\n".join([_HEAD, *map(_row, TOPICS), "", *parts])


def _row(topic: str) -> str:
    pointwise, listwise = _names(topic)
    return f"| [`{pointwise}`](#{topic}) | [`{listwise}`](#{topic}) | {TOPICS[topic]} |"


def _section(topic: str, principles: PrincipleSet) -> Iterator[str]:
    yield f"## {topic}"
    yield ""
    yield f"Judges: {' and '.join(f'`{name}`' for name in _names(topic))}."
    yield ""
    yield principles.about
    yield ""
    for place, each in enumerate(principles.principles, 1):
        yield f"{place}. **{each.name}.** {each.text}"
        if each.source:
            yield f"   *{_ARXIV.sub(_LINK, each.source)}*"
    yield ""


def _names(topic: str) -> list[str]:
    """Of the pointwise and the listwise judge."""
    return [name for name, entry in LIBRARY.items() if entry.topic == topic]


if __name__ == "__main__":
    print(write_page(), end="")
