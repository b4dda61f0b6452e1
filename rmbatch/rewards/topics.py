"""Groups the rewards by topic, for a person who looks for one.

rewards_by_topic()["mathematics"]       # ["math_verify_reward"]
"""

from rmbatch.rewards.registry import BUILTIN, list_rewards

OTHER = "installed"
"""Rewards of other packages."""
TOPICS: dict[str, tuple[str, ...]] = {
    "answers": ("general", "match"),
    "mathematics": ("math",),
    "programs": ("code_execution", "code"),
    "JSON and tool calls": ("json_match", "tool_calls", "tool_steps"),
    "likeness to a reference": ("similarity",),
    "agreement among candidates": ("voting", "code_agreement"),
    "instructions and format": ("constraints", "format"),
    "length and style": ("length", "truncation", "style"),
    "language": ("language",),
    "safety": ("refusal", "toxicity", "privacy"),
    "reasoning steps": ("process",),
}
"""By topic: the modules of ``rmbatch.rewards`` whose rewards belong to it."""


def rewards_by_topic() -> dict[str, list[str]]:
    """The names of all rewards that need no path, by topic; every name in exactly one."""
    topic_of = {module: topic for topic, modules in TOPICS.items() for module in modules}
    found: dict[str, list[str]] = {topic: [] for topic in [*TOPICS, OTHER]}
    for name in list_rewards():
        module = BUILTIN.get(name, ":").partition(":")[0].rpartition(".")[2]
        found[topic_of.get(module, OTHER)].append(name)
    return {topic: names for topic, names in found.items() if names}
