"""Checks a served model before it scores: its checkpoint, its settings, and its conversations.

It loads the tokenizer and configuration, but no weights; ``model_probes.py`` checks a loaded model.

    findings = cheap_findings(rmbatch.reward_model("Skywork/Skywork-Reward-V2-Llama-3.1-8B"), flatten(table, roles))
    raise_failures(findings)                  # UserError if one of them is a failure
"""

import re
from collections.abc import Iterator
from pathlib import Path

from connectors.errors import UserError
from rmbatch.doctor.conversations import check_rows, check_template
from rmbatch.doctor.findings import Finding
from rmbatch.doctor.model_files import NO_LIMIT, ModelFiles, max_positions
from rmbatch.reward_models.reward import ModelReward
from rmbatch.rows.roles import FlatView

_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")
"""Suffixes of the architectures whose outputs are tokens."""
_OVERRIDES = {"hf_overrides", "convert", "max_position_embeddings", "rope_parameters", "rope_scaling"}
"""Keys of engine_args that make a different model of a checkpoint than its configuration says."""


def cheap_findings(reward: ModelReward, view: FlatView | None = None) -> list[Finding]:
    """The findings on tokenizer, configuration, settings and the first conversations of ``view`` (None: no rows).

    Raises UserError only for columns that ``view`` lacks.
    """
    return list(_check_all(reward, view))


def _check_all(reward: ModelReward, view: FlatView | None) -> Iterator[Finding]:
    config = None
    try:
        tokenizer = reward.encoder.tokenizer
    except UserError as error:
        yield Finding("failure", "tokenizer", str(error))
        return
    try:
        config = reward.encoder.config
    except UserError as error:
        if not reward.spec.is_remote:
            yield Finding("failure", "config", str(error))
            return
        yield Finding("ok", "config", "not here; the servers have the model")
    model = ModelFiles(reward, tokenizer, config)
    yield _check_revision(model)
    head = _check_score_head(model)
    yield head
    if head.level != "failure":
        yield from _check_outputs(model)
    yield _check_dtype(model)
    limit = _check_max_length(model)
    yield limit
    yield _check_padding(model)
    message, ids = check_template(model)
    yield from message
    if ids is not None and view is not None and limit.level != "failure":
        yield from check_rows(model, ids, view)


def _check_revision(model: ModelFiles) -> Finding:
    spec = model.spec
    if spec.is_remote:
        if spec.store is not None and spec.revision is None:
            message = "scores are kept (store), and nothing says of which weights"
            cure = "set revision to a name of your own for what the servers hold, and a new one when that changes"
            return Finding("failure", "revision", f"{message}; {cure}")
        return Finding("ok", "revision", f"the servers hold the weights, {spec.revision or 'unnamed'}")
    if Path(spec.model).is_dir():
        return Finding("ok", "revision", "a local folder")
    if spec.revision is not None and re.fullmatch(r"[0-9a-f]{40}", spec.revision):
        return Finding("ok", "revision", f"commit {spec.revision}")
    commit = _find_cached_commit(spec.model, spec.revision)
    named = f"revision {spec.revision!r} may move" if spec.revision else "no revision is named: main, which moves"
    cure = f"the one here is commit {commit}: set revision: {commit}" if commit else "set revision to a commit"
    return Finding("warning", "revision", f"{named}; {cure}")


def _find_cached_commit(model: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of a hub model has in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _check_score_head(model: ModelFiles) -> Finding:
    if model.config is None:
        return Finding("ok", "score_head", "the servers know")
    names = list(model.config.architectures or ())
    named = ", ".join(names)
    if not names:
        return Finding("warning", "score_head", "the configuration names no architecture; only loading it will tell")
    if model.spec.is_remote or _OVERRIDES & {*model.spec.engine_args}:
        return Finding("ok", "score_head", f"{named}; the engine's own settings may say otherwise")
    if model.spec.trust_remote_code and getattr(model.config, "auto_map", None):
        return Finding("ok", "score_head", f"{named}, by the repository's own code")
    if all(name.endswith(_GENERATES) for name in names):
        cure = "name a reward model (*ForSequenceClassification, *ForRewardModel, ...), not the model it was made of"
        return Finding("failure", "score_head", f"{named} generates text and has no score head; {cure}")
    return Finding("ok", "score_head", named)


def _check_outputs(model: ModelFiles) -> Iterator[Finding]:
    try:
        names, chosen = model.reward.outputs, model.reward.chosen
    except UserError as error:
        yield Finding("failure", "output", f"{error}{_suggest_outputs(model)}")
        return
    given = model.spec.outputs
    if given is None or model.config is None or len(given) == model.config.num_labels:
        yield Finding("ok", "output", f"{names[chosen]!r}, {chosen + 1} of {len(names)}")
    else:
        message = f"{len(given)} are named ({', '.join(given)}), and its configuration says {model.config.num_labels}"
        yield Finding("warning", "output", f"{message}; what the model gives must be as many as are named")
    yield _check_activation(model, names)


def _suggest_outputs(model: ModelFiles) -> str:
    """A hint where the configuration names no outputs: transformers then assumes two, and the model may have one."""
    if model.config is None:
        return "; for a model that only its servers have, give outputs: [score]"
    known = "id2label" in model.config.to_diff_dict()
    heads = [name for name in model.config.architectures or () if name.endswith("Classification")]
    return "" if known or heads else "; its configuration names none, so two are assumed: has it one, outputs: [score]"


def _check_activation(model: ModelFiles, names: tuple[str, ...]) -> Finding:
    spec = model.spec
    several = len(names) > 1
    if spec.activation == "softmax" and not several:
        return Finding("failure", "activation", "a softmax over one output is 1.0 for anything; set activation: none")
    if spec.steps is not None and spec.activation == "none" and several:
        what = f"{spec.steps.aggregate} is taken over raw outputs of one of {len(names)} classes, which are no scores"
        cure = f"set activation: softmax and output: {names[-1] if spec.output is None else spec.output}"
        return Finding("warning", "activation", f"{what} without the others; {cure}")
    if spec.steps is not None and spec.activation == "none" and spec.steps.aggregate == "prod":
        what = "a product of raw outputs changes its sign with each negative step"
        return Finding("warning", "activation", f"{what}; set activation: sigmoid, or steps.aggregate: min")
    if spec.activation != "none" and spec.steps is None:
        what = f"{spec.activation} is left on: scores are squashed to 0..1, and high rewards become alike"
        return Finding("warning", "activation", f"{what}; set activation: none for raw rewards")
    if spec.activation != "none":
        return Finding("ok", "activation", f"{spec.activation} for each step")
    return Finding(
        "ok", "activation", f"none, raw outputs; by itself vLLM would apply {_default_activation(model, several)}"
    )


def _default_activation(model: ModelFiles, several: bool) -> str:
    problem = getattr(model.config, "problem_type", None)
    if problem == "regression":
        return "none either"
    return "a softmax" if several and problem != "multi_label_classification" else "a sigmoid"


def _check_dtype(model: ModelFiles) -> Finding:
    of_checkpoint = str(getattr(model.config, "dtype", None) or "not said").removeprefix("torch.")
    on_gpu = not model.spec.is_remote and model.spec.num_gpus > 0
    if on_gpu and model.spec.dtype == "auto" and of_checkpoint == "float32":
        message = "the checkpoint is float32, and so is what is computed, at a fraction of a GPU's speed"
        return Finding("warning", "dtype", f"{message}; dtype: bfloat16 is faster and less exact")
    return Finding("ok", "dtype", f"{model.spec.dtype}; the checkpoint's is {of_checkpoint}")


def _check_max_length(model: ModelFiles) -> Finding:
    try:
        length = model.reward.encoder.max_length
    except UserError as error:
        return Finding("failure", "max_length", str(error))
    limit = max_positions(model.config)
    by_tokenizer = int(min(model.tokenizer.model_max_length, NO_LIMIT))
    if limit is not None and length > limit:
        message = f"{length:,} tokens, and the model has {limit:,} positions"
        if _OVERRIDES & {*model.spec.engine_args}:
            return Finding("warning", "max_length", f"{message}, unless engine_args change that")
        return Finding("failure", "max_length", f"{message}; set max_length: {limit} or less")
    if length > by_tokenizer:
        message = f"{length:,} tokens, and its tokenizer says {by_tokenizer:,} (model_max_length)"
        return Finding("warning", "max_length", f"{message}; set max_length: {by_tokenizer} unless you know better")
    message = "" if limit is None else f"; the model has {limit:,} positions"
    return Finding("ok", "max_length", f"{length:,} tokens{message}")


_PADDING = {
    "vllm": "harmless, vLLM does not pad",
    "transformers": "harmless, the engine pads with an id that no conversation of the batch holds, on the right",
    "endpoint": "harmless here, for servers are asked one conversation a request; how they pad is theirs",
}


def _check_padding(model: ModelFiles) -> Finding:
    pad, eos, side = model.tokenizer.pad_token, model.tokenizer.eos_token, model.tokenizer.padding_side
    if pad is None:
        return Finding("ok", "padding", "the tokenizer has no pad token, and none is needed")
    if pad == eos:
        elsewhere = "elsewhere the end of a turn could be taken for padding"
        why = f"{_PADDING[model.spec.engine]}; {elsewhere}"
        return Finding("warning", "padding", f"pad and end are the same token, {pad} (side: {side}): {why}")
    return Finding("ok", "padding", f"{pad}, not the end {eos or '(none)'} (side: {side})")
