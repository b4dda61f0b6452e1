"""Models with random weights, made on the spot, that real engines load in seconds: a reward model of each family.

scalar = make_model(folder, "scalar")      # Qwen2ForSequenceClassification, one output
"""

from pathlib import Path
from typing import Any, Literal

Family = Literal["scalar", "multi", "process", "causal"]

OUTPUTS = ("helpful", "correct", "terse")
"""The labels of the multi-output model."""
STEP = "<extra_0>"
"""What the process reward model reads its steps' scores at."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", STEP)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE, **special: str) -> Any:
    """A byte-level BPE tokenizer with Qwen's special tokens, saved in the folder; ``special`` as in transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    made.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(
    folder: Path, family: Family, *, layers: int = 2, hidden: int = 128, seed: int = 0, **config: Any
) -> str:
    """A tiny Qwen2 of a family with its tokenizer, float32, as a folder that engines load; returns the folder.

    Scores of different texts differ by much more than float32's rounding: the head's weights are drawn wide.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen2Model

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "dtype": "float32",
        **config,
    }
    if family == "causal":
        Qwen2ForCausalLM(Qwen2Config(**settings)).save_pretrained(folder)
    elif family == "process":
        _save_process(folder, Qwen2Model(Qwen2Config(**settings)), Qwen2Config(**settings))
    else:
        labels = {0: "LABEL_0"} if family == "scalar" else dict(enumerate(OUTPUTS))
        model = Qwen2ForSequenceClassification(Qwen2Config(**settings, num_labels=len(labels), id2label=labels))
        torch.nn.init.normal_(model.score.weight, std=1.0)
        model.save_pretrained(folder)
    return str(folder)


def _save_process(folder: Path, body: Any, config: Any) -> None:
    """Qwen2.5-Math-PRM's shape: two labels a token, read at the step token; transformers has no class for it."""
    import torch
    from safetensors.torch import save_file

    hidden = config.hidden_size
    head = {"score.0.weight": (hidden, hidden), "score.0.bias": (hidden,), "score.2.weight": (2, hidden)}
    head["score.2.bias"] = (2,)
    weights = {f"model.{name}": tensor.contiguous() for name, tensor in body.state_dict().items()}
    weights |= {name: torch.randn(shape) * (hidden**-0.5) for name, shape in head.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["Qwen2ForProcessRewardModel"]
    config.num_labels = 2
    config.save_pretrained(folder)
