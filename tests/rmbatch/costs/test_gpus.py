"""Counts against those of published models and of what transformers builds; peaks by names as devices say them."""

from typing import Any

import pytest

from rmbatch.costs.gpus import DECODERS, flops_per_token, num_parameters, peak_flops

QWEN2_SMALL = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "sliding_window": 32768,
    "use_sliding_window": False,
}
QWEN2 = {
    **QWEN2_SMALL,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,  # not hidden_size / heads
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
INTERNLM2 = {**LLAMA, "model_type": "internlm2", "bias": False, "vocab_size": 92544}
GEMMA2 = {
    "model_type": "gemma2",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
}


@pytest.mark.parametrize(
    ("config", "total", "without_embedding"),
    [
        pytest.param(QWEN2_SMALL, 494_032_768, 357_900_000, id="Qwen2.5-0.5B"),  # head and embedding are one
        pytest.param(QWEN2, 7_615_616_512, 6.53e9, id="Qwen2.5-7B"),
        pytest.param(LLAMA, 8_030_261_248, 6.98e9, id="Llama-3.1-8B"),
        pytest.param(INTERNLM2, 7_737_708_544, 6.98e9, id="internlm2-7b"),
        pytest.param(QWEN3_MOE, 30_532_122_624, 29.9e9, id="Qwen3-30B-A3B"),
        pytest.param(GEMMA2, 2_614_341_888, 2_024_517_888, id="gemma-2-2b"),  # tied where the file does not say so
    ],
)
def test_as_many_as_published(config: dict[str, Any], total: int, without_embedding: float) -> None:
    counted = num_parameters(config)
    assert counted is not None
    assert counted.total == total  # the number of elements in the published files
    assert counted.total - counted.embedding == pytest.approx(without_embedding, rel=0.01)


def test_only_routed_experts_are_active() -> None:
    counted = num_parameters(QWEN3_MOE)
    assert counted is not None
    assert counted.active + counted.embedding == pytest.approx(3.3e9, rel=0.02)  # published as 3.3B, with embeddings
    assert counted.active < counted.total / 10


def test_flops_of_weights_and_of_causal_attention() -> None:
    counted = num_parameters(QWEN2)
    assert counted is not None
    assert flops_per_token(QWEN2, 0) == 2 * counted.active
    attention = flops_per_token(QWEN2, 1000) - 2 * counted.active  # type: ignore[operator]
    assert attention == 28 * 4 * 28 * 128 * 500  # a token attends to half of the conversation on average


def test_a_window_bounds_what_is_attended_to() -> None:
    full, mixed = {**LLAMA, "sliding_window": None}, {**LLAMA, "sliding_window": 100}
    mixed["layer_types"] = ["sliding_attention", "full_attention"] * 16
    windowed = {**mixed, "layer_types": ["sliding_attention"] * 32}
    weights = flops_per_token(LLAMA, 0)
    assert weights is not None
    per_token = 4 * 32 * 128 * 32
    for config, attended in ((full, 500), (windowed, 100 - 100 * 100 / 2000), (mixed, (500 + 95) / 2)):
        assert flops_per_token(config, 1000) == weights + per_token * attended
    assert flops_per_token(windowed, 80) == flops_per_token(full, 80)  # shorter than the window


def test_language_model_of_a_combined_configuration() -> None:
    assert flops_per_token({"model_type": "llava", "text_config": LLAMA}, 10) == flops_per_token(LLAMA, 10)


@pytest.mark.parametrize("config", [{}, {"model_type": "deberta-v2", "hidden_size": 1024}, {"model_type": "gpt2"}])
def test_an_unknown_architecture_has_no_count(config: dict[str, Any]) -> None:
    assert num_parameters(config) is None
    assert flops_per_token(config, 1000) is None


@pytest.mark.served
@pytest.mark.parametrize("kind", [kind for kind in DECODERS if kind != "internlm2"])  # its code is not transformers'
def test_as_many_as_transformers_builds(kind: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3, "head_dim": 16}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 1000}
    sizes |= {"moe_intermediate_size": 32} if kind.endswith("_moe") else {}
    config = transformers.AutoConfig.for_model(kind, **shape, **sizes, pad_token_id=0)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    built = {id(each): each.numel() for each in model.parameters()}
    counted = num_parameters(config.to_dict())
    assert counted is not None
    assert counted.total == sum(built.values())


@pytest.mark.parametrize(
    ("device_name", "dtype", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "torch.bfloat16", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "float32", 66.9e12),  # no TF32 unless asked for
        ("NVIDIA H100 80GB HBM3", "fp8", 1978.9e12),
        ("NVIDIA H100 80GB HBM3", "float8_e4m3fn", 1978.9e12),
        ("NVIDIA H100 80GB HBM3", "int8", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None),  # a seventh of one
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H100 NVL", "float16", 835.5e12),
        ("NVIDIA H200", "bfloat16", 989.4e12),
        ("NVIDIA GH200 480GB", "bfloat16", 989.4e12),
        ("NVIDIA H800", "bfloat16", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100 80GB PCIe", "bfloat16", 312e12),
        ("NVIDIA A100-PCIE-40GB", "float8", None),
        ("NVIDIA A10", "float16", 125e12),
        ("NVIDIA A10G", "float16", 70e12),  # not an A10
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362.05e12),
        ("NVIDIA L40", "bfloat16", None),  # neither an L4 nor an L40S
        ("NVIDIA B200", "bfloat16", 2250e12),
        ("NVIDIA GB200", "bfloat16", 2500e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2e12),
        ("NVIDIA GeForce RTX 4090 D", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("AMD Instinct MI300X", "bfloat16", 1307.4e12),
        ("Tesla V100-SXM2-16GB", "float16", 125e12),
        ("Tesla V100-PCIE-32GB", "float16", 112e12),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),  # it has no bfloat16
        ("Tesla T4", "float16", 65e12),
        ("cpu", "float32", None),
        ("", "float32", None),
    ],
)
def test_peak_by_the_name_of_the_device(device_name: str, dtype: str, expected: float | None) -> None:
    assert peak_flops(device_name, dtype) == pytest.approx(expected)
