# Two commands a newcomer needs: `make demo` and `make test`. Everything installs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := setup.py pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc -type f)

# Idle OpenMP threads that spin slow everything down on a machine that does anything else.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check slow slow-share zoo docs figures format clean

demo: $(READY) model.pt ## train a small teacher and compress it
	$(BIN)/compressc model.pt --passes prune,distill,quant --data digits -o out/

# torch comes first and pinned: asked for by another package, it would be a CUDA build of gigabytes.
$(READY): $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

model.pt: examples/teachers/digits.py | $(READY)
	$(BIN)/python examples/teachers/digits.py --out $@

test: $(READY) model.pt ## every test that takes seconds
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY) model.pt ## the tests that take minutes
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

# Every commit takes the next of 8 shares, so that eight commits run them all. No test begins after four
# minutes; what the box had no room for is counted as skipped.
SHARES := 8
SHARE = $(or $(shell git rev-list --count HEAD 2>/dev/null),0)

slow-share: $(READY) model.pt ## one share of the tests that take minutes
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal --share $(SHARE)/$(SHARES) --box 240

check: $(READY) ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

zoo: $(READY) ## check every architecture, put it through every pass; write docs/zoo.md and zoo-passes.md
	$(BIN)/python -W ignore -m tests.zoo
	$(BIN)/python -W ignore -m tests.zoo.passes

docs: $(READY) ## generate docs/reference from the code, README's figures from docs/demo.json
	$(BIN)/python docs/generate.py

# On a machine that does nothing else; the picture is taken by chromium.
figures: demo ## take README's figures and picture from a run of the demo
	cp out/manifest.json docs/demo.json
	$(BIN)/python docs/generate.py
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1000,885 \
	  --screenshot=docs/images/report.png out/report.html

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build out model.pt $(VENV)
