"""Lists rewards and judges by topic, or describes one: ``rmbatch rewards [NAME]``.

show_rewards(None, Console())
build_catalogue()["rewards"][0]["name"]           # the same as plain values, for --json
"""

from typing import Any

from rich.console import Console

from connectors.errors import UserError
from jobs.show.display import draw_table
from rmbatch.judges.describe import describe_judge
from rmbatch.judges.kinds import KINDS
from rmbatch.judges.kinds.base import load_kind
from rmbatch.judges.library import LIBRARY, is_judge
from rmbatch.rewards.contract import RewardSpec
from rmbatch.rewards.registry import ALIASES, describe, format_type, list_rewards, resolve
from rmbatch.rewards.topics import rewards_by_topic
from rmbatch.settings.names import nearest


def show_rewards(name: str | None, console: Console) -> None:
    """Print all rewards and judges, or describe ``name``. Raises UserError for an unknown name."""
    if name is not None:
        _check_known(name)
        print(describe_judge(name) if is_judge(name) else describe(name))
        return
    for topic, names in rewards_by_topic().items():
        console.print(draw_table(topic, [(each, _first_line(resolve(each))) for each in names]), "")
    kinds = [(kind, " ".join(str(load_kind(kind).__doc__).split())) for kind in KINDS]
    console.print(draw_table("judges: kinds", kinds), "")
    console.print(draw_table("judges: library", [(each, entry.about) for each, entry in LIBRARY.items()]))


def build_catalogue(name: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """List rewards (name, topic, kind, columns, knobs, doc) and judges (name, kind, about), or the one of this name."""
    if name is not None:
        _check_known(name)
    topics = {each: topic for topic, names in rewards_by_topic().items() for each in names}
    rewards = list(topics) if name is None else [] if is_judge(name) else [name]
    judges = [each for each in (*KINDS, *LIBRARY) if name in (None, each)]
    return {
        "rewards": [_describe_reward(resolve(each), topics.get(ALIASES.get(each, each))) for each in rewards],
        "judges": [_describe_judge(each) for each in judges],
    }


def _describe_reward(spec: RewardSpec, topic: str | None) -> dict[str, Any]:
    knobs = [
        {"name": knob.name, "type": format_type(knob.annotation), "required": knob.required}
        | ({} if knob.required else {"default": repr(knob.default)})
        for knob in spec.knobs
    ]
    return {
        "name": spec.name,
        "topic": topic,
        "kind": spec.kind,
        "columns": list(spec.columns),
        "knobs": knobs,
        "doc": spec.doc,
    }


def _describe_judge(name: str) -> dict[str, Any]:
    if name in KINDS:
        return {"name": name, "kind": name, "about": " ".join(str(load_kind(name).__doc__).split())}
    return {"name": name, "kind": LIBRARY[name].kind, "about": LIBRARY[name].about}


def _check_known(name: str) -> None:
    """Raises UserError for a plain name that is neither a reward nor a judge. The registry checks paths."""
    known = [*list_rewards(), *ALIASES, *KINDS, *LIBRARY]
    if ":" not in name and name not in known:
        raise UserError(f"no reward or judge {name!r}: {nearest(name, known)}")


def _first_line(spec: RewardSpec) -> str:
    return spec.doc.split("\n", 1)[0]
