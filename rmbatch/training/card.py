"""The model card of a trained reward model: what it is, what it was trained on, how good it is, how it is used.

write_card(report, recipe.describe_use("out/rm/model"))      # Markdown with the hub's front matter
"""

from collections.abc import Mapping
from typing import Any

import yaml


def write_card(report: Mapping[str, Any], use: str) -> str:
    """The card as Markdown. ``report``: as in ``report.json``. ``use``: a part of a job file that uses the model."""
    front = {"library_name": "transformers", "tags": ["reward-model", report["recipe"], "rmbatch", "verl"]}
    if not str(report["base"]).startswith(("/", ".")):
        front["base_model"] = report["base"]
    rows, held_out = report["rows"], report["held_out"]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        "# Reward model",
        "",
        f"Trained by rmbatch with the recipe `{report['recipe']}` on verl {report['packages']['verl']}, from "
        f"`{report['base']}`.",
        "",
        f"- Data: {rows['train']:,} {report['noun']} to train on, {rows['held_out']:,} held out; no prompt is in both.",
        f"- Training: {report['steps']:,} steps with {report['train']['batch']:,} {report['noun']} each, learning rate "
        f"{report['train']['learning_rate']:g}, seed {report['train']['seed']}.",
        f"- Held-out accuracy: {describe_accuracy(held_out)}",
    ]
    if held_out.get("length_alone") is not None:
        lines.append(f"- The same by the length of the answer alone: {held_out['length_alone']:.1%}")
    lines += ["", "Use it in a job file:", "", "```yaml", use.strip(), "```", ""]
    return "\n".join(lines)


def describe_accuracy(held_out: Mapping[str, Any]) -> str:
    """The accuracy with its interval and what it was before training, in words."""
    if held_out["accuracy"] is None:
        return "not measured"
    before = held_out.get("before")
    was = "" if before is None else f"; before training {before:.1%}"
    interval = ""
    if held_out.get("low") is not None:
        interval = f" (95 % interval {held_out['low']:.1%} to {held_out['high']:.1%}, {held_out['rows']:,} rows{was})"
    return f"{held_out['accuracy']:.1%}{interval}"
