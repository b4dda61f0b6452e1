"""Every reward has a topic."""

from rmbatch.rewards.registry import list_rewards
from rmbatch.rewards.topics import rewards_by_topic


def test_every_builtin_reward_has_a_topic() -> None:
    topics = rewards_by_topic()
    assert "installed" not in topics
    assert sorted(name for names in topics.values() for name in names) == list_rewards()
