"""The peak FLOP/s of devices and the FLOPs that models need: the two halves of model FLOPs utilisation (MFU).

Both are None where unknown: no MFU is better than that of another device or architecture.

    peak = peak_flops("NVIDIA H100 80GB HBM3", "bfloat16")        # 989.4e12
    needed = flops_per_token(config.to_dict(), length=1200)       # 1.4e10 for 7B
    mfu = tokens_per_s * needed / peak
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Peak(NamedTuple):
    """Dense TFLOP/s of matrix products with sums in float32; None: the device does not compute in this type.

    float32 is the rate of true float32, because PyTorch multiplies in TF32 only where it is asked to.
    """

    float32: float
    float16: float
    bfloat16: float | None
    float8: float | None = None


PEAKS: dict[str, Peak] = {
    # NVIDIA H100 data sheet 2024 (its Tensor Core figures are with sparsity, twice these); PCIe: H100 white paper v1.04
    "h100 nvl": Peak(60.0, 835.5, 835.5, 1670.5),
    "h100 pcie": Peak(51.2, 756.0, 756.0, 1513.0),
    "h100": Peak(66.9, 989.4, 989.4, 1978.9),
    # NVIDIA H200 data sheet, with sparsity: 1,979 and NVL 1,671
    "h200 nvl": Peak(60.0, 835.5, 835.5, 1670.5),
    "h200": Peak(66.9, 989.4, 989.4, 1978.9),
    # NVIDIA GH200 data sheet: the GPU of H100 SXM
    "gh200": Peak(66.9, 989.4, 989.4, 1978.9),
    # The H100 with slower NVLink and float64: H800 data sheet
    "h800 pcie": Peak(51.2, 756.0, 756.0, 1513.0),
    "h800": Peak(66.9, 989.4, 989.4, 1978.9),
    # NVIDIA HGX B200 data sheet, an eighth of its eight GPUs, dense
    "b200": Peak(75.0, 2250.0, 2250.0, 4500.0),
    # NVIDIA GB200 NVL72 data sheet, a 72nd, dense
    "gb200": Peak(80.0, 2500.0, 2500.0, 5000.0),
    # NVIDIA A100 80GB data sheet: PCIe and SXM alike
    "a100": Peak(19.5, 312.0, 312.0),
    "a800": Peak(19.5, 312.0, 312.0),
    # NVIDIA A10 data sheet
    "a10": Peak(31.2, 125.0, 125.0),
    # NVIDIA A10G data sheet (AWS g5)
    "a10g": Peak(35.0, 70.0, 70.0),
    # NVIDIA L4 data sheet, with sparsity: 242 and 485
    "l4": Peak(30.3, 121.0, 121.0, 242.5),
    # NVIDIA L40S data sheet
    "l40s": Peak(91.6, 362.05, 362.05, 733.0),
    # NVIDIA Ada GPU architecture white paper v2.1, appendix A, sums in float32
    "rtx 4090": Peak(82.6, 165.2, 165.2, 330.3),
    # AMD Instinct MI300X data sheet
    "mi300x": Peak(163.4, 1307.4, 1307.4, 2614.9),
    # NVIDIA V100 data sheet; the cards' tensor cores take float16 alone
    "v100 pcie": Peak(14.0, 112.0, None),
    "v100": Peak(15.7, 125.0, None),
    # NVIDIA T4 data sheet
    "t4": Peak(8.1, 65.0, None),
}
"""Peaks by the words of a device's name, the more exact names first."""

OTHER_DEVICES = {"mig", "d", "laptop", "max", "super"}
"""Words that make it another device: a part of one, or a slower one."""


def peak_flops(device_name: str, dtype: str) -> float | None:
    """FLOP/s of one device, dense, as its data sheet says; None where the device or the type is not known.

    ``device_name`` as torch.cuda.get_device_name() says it; ``dtype`` float32, float16, bfloat16, or float8 and fp8.
    """
    words = set(re.split(r"[\s_-]+", device_name.lower()))
    words |= {"pcie"} if any(word.startswith("pcie") for word in words) else set()
    kind = "float8" if re.match(r"(torch\.)?(float|fp)8", dtype) else dtype.removeprefix("torch.")
    if words & OTHER_DEVICES or kind not in Peak._fields:
        return None
    peak = next((peak for name, peak in PEAKS.items() if words.issuperset(name.split())), None)
    teraflops: float | None = getattr(peak, kind) if peak else None
    return teraflops * 1e12 if teraflops else None


@dataclass(frozen=True)
class Parameters:
    """How many parameters a causal language model has."""

    total: int
    """All of them, the language model's head included."""
    embedding: int
    """Those of the input embedding, and of the head where it is not the same."""
    active: int
    """Those that one token is multiplied with, without embedding and head; of experts only those it is sent to."""


DECODERS = (
    *("llama", "mistral", "mixtral", "granite", "olmo2", "olmoe", "phi3", "internlm2"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"),
)
"""The values of model_type that ``num_parameters`` knows: decoders with gated MLPs and grouped attention."""


def num_parameters(config: Mapping[str, Any]) -> Parameters | None:
    """The number of parameters by a model's config.json; None for an architecture that is not in DECODERS."""
    shape = _text(config)
    kind = shape.get("model_type")
    if kind not in DECODERS:
        return None
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    total = active = 0
    for layer in range(layers):
        shared, routed, used = _attention(shape) + _norms(shape), 0, 0
        if _has_experts(shape, layer):
            expert = 3 * hidden * _first(shape, "moe_intermediate_size", "intermediate_size")
            routed = _num_experts(shape) * expert
            used = shape["num_experts_per_tok"] * expert
            shared += _num_experts(shape) * hidden
            if kind == "qwen2_moe":
                shared += 3 * hidden * shape["shared_expert_intermediate_size"] + hidden
        else:
            shared += 3 * hidden * shape["intermediate_size"]
        total += shared + routed
        active += shared + used
    tied = _first(shape, "tie_word_embeddings", default=kind.startswith("gemma"))
    embedding = (1 if tied else 2) * shape["vocab_size"] * hidden
    return Parameters(total + embedding + hidden, embedding, active + hidden)


def flops_per_token(config: Mapping[str, Any], length: float) -> float | None:
    """FLOPs that a forward pass needs for one token of a conversation of ``length`` tokens, on average over its tokens.

    2 for each parameter that the token is multiplied with (embedding and language model's head not counted: a reward
    model looks up the one and lacks the other), and in each layer 4 · heads · head_dim for each token that it attends
    to: 2 for queries times keys, 2 for weights times values. Attention is causal, so that is ``length / 2`` on average;
    behind a sliding window of w tokens, w − w² / 2 length. Recomputation, padding and softmax do not count.
    None for an architecture that ``num_parameters`` does not know.
    """
    counted = num_parameters(config)
    if counted is None:
        return None
    shape = _text(config)
    attended = sum(_attended(shape, layer, length) for layer in range(shape["num_hidden_layers"]))
    attention = 4 * int(shape["num_attention_heads"]) * _head_size(shape)
    return 2.0 * counted.active + attention * attended


def _attended(shape: Mapping[str, Any], layer: int, length: float) -> float:
    kinds: list[str] | None = shape.get("layer_types")
    window: int | None = shape.get("sliding_window")
    slides = kinds[layer] == "sliding_attention" if kinds else shape["model_type"] == "mistral"
    if not slides or window is None or window >= length:
        return length / 2
    return window - window * window / (2 * length)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration that has several."""
    part: Mapping[str, Any] = config.get("text_config") or config
    return part


def _attention(shape: Mapping[str, Any]) -> int:
    hidden, heads, size = shape["hidden_size"], shape["num_attention_heads"], _head_size(shape)
    queries, keys = heads * size, _first(shape, "num_key_value_heads", default=heads) * size
    weights = 2 * hidden * queries + 2 * hidden * keys
    kind = shape["model_type"]
    if kind in ("qwen2", "qwen2_moe"):
        return int(weights + queries + 2 * keys)
    if _first(shape, "attention_bias", "bias", default=False):
        weights += queries + 2 * keys + hidden
    if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
        weights += 2 * size
    if kind in ("olmo2", "olmoe"):
        weights += queries + keys
    return int(weights)


def _norms(shape: Mapping[str, Any]) -> int:
    return int((4 if shape["model_type"] in ("gemma2", "gemma3_text") else 2) * shape["hidden_size"])


def _has_experts(shape: Mapping[str, Any], layer: int) -> bool:
    every = shape.get("decoder_sparse_step") or 1
    dense = layer in (shape.get("mlp_only_layers") or ()) or (layer + 1) % every
    return _num_experts(shape) > 0 and not dense


def _num_experts(shape: Mapping[str, Any]) -> int:
    return int(_first(shape, "num_experts", "num_local_experts", default=0))


def _head_size(shape: Mapping[str, Any]) -> int:
    return int(shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"])


def _first(shape: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """The value of the first of these names that the configuration has."""
    return next((shape[name] for name in names if shape.get(name) is not None), default)
