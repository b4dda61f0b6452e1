"""In which order a judge sees texts: one that their places in the row have no part in.

shuffle_texts(["4", "5"], "What is 2 + 2?", seed=0, turn=0)         # the same for ["5", "4"]
"""

import hashlib
from collections.abc import Sequence


def shuffle_texts(texts: Sequence[str], prompt: str, seed: int, turn: int) -> list[str]:
    """The texts, all different, by hashes of themselves, the prompt, the seed and which turn it is."""

    def key(text: str) -> bytes:
        said = "\0".join((str(seed), str(turn), prompt, text))
        return hashlib.blake2b(said.encode(errors="replace"), digest_size=16).digest()

    return sorted(texts, key=key)


def order_for_vote(texts: Sequence[str], prompt: str, seed: int, vote: int) -> list[str]:
    """The order of a vote: over as many votes as there are texts, each text is in each place once."""
    turn, place = divmod(vote, len(texts))
    whole = shuffle_texts(texts, prompt, seed, turn)
    return whole[place:] + whole[:place]
