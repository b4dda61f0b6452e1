"""The toxicity classifier: a tiny model with random weights, made on the spot, where transformers is installed."""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a classifier of two labels."""
    pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "you", "are", "nice", "awful"]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=32, id2label={0: "toxic", 1: "fine"}, label2id={"toxic": 0, "fine": 1},
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    return str(folder)


def test_one_minus_the_probability_of_the_label(model: str) -> None:
    table = pa.table({"response": ["you are nice", None, "", "awful " * 100, "you are nice"]})
    scores = rmbatch.reward("detoxify_reward", model=model).score(table)["score.detoxify_reward"].to_pylist()
    fine = rmbatch.reward("toxicity", model=model, label="fine").score(table)["score.detoxify_reward"].to_pylist()
    assert scores[1] is None
    assert scores[0] == scores[4]
    for score, other in zip(scores, fine):
        assert score is None or (0 < score < 1 and score + other == pytest.approx(1, abs=1e-6))
    one = rmbatch.reward("detoxify_reward", model=model).evaluate({"response": "you are nice"})
    assert one.score == scores[0]  # to the bit, whatever the batch


def test_missing_label_or_model_is_an_error(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no label 'rude'; it has fine, toxic"):
        rmbatch.reward("detoxify_reward", model=model, label="rude").evaluate({"response": "a"})
    with pytest.raises(UserError, match="cannot be loaded"):
        rmbatch.reward("detoxify_reward", model=str(tmp_path / "none")).evaluate({"response": "a"})


def test_without_transformers_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    rm = rmbatch.reward("detoxify_reward", model="any")
    assert rm.evaluate({"response": None}).error == "missing_response: response is null"
    with pytest.raises(UserError, match=r"pip install 'rmbatch\[transformers\]'"):
        rm.evaluate({"response": "a"})
