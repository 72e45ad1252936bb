# Everything runs in .venv, made on first use with nothing but Python 3.11 and the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= out/demo
# For example: make bench BENCH='--data ../shared/data/busi --dataset busi --task segmentation'
BENCH ?= --seeds 3

.PHONY: dev demo test lint proto bench clean

dev: $(STAMP)

$(STAMP): constraints.txt pyproject.toml keys/pyproject.toml server/pyproject.toml client/pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that nothing can ask for another build of it.
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt \
		--editable '.[backbone,pkcs11,report]' --editable keys --editable 'server[foundation-model]' --editable client
	@sh tests/support/softhsm.sh $(VENV)/share/softhsm || \
		echo "SoftHSM cannot be had from Debian here: tests of keys in PKCS#11 tokens will be skipped."
	@sh tests/support/rsyslog.sh $(VENV)/share/rsyslog || \
		echo "rsyslog cannot be had from Debian here: tests that ship audit events will be skipped."
	touch $(STAMP)

demo: dev
	$(BIN)/fedhelp demo --out $(OUT)

test: dev
	$(BIN)/python -m pytest

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fedhelp_secure keys/fedhelp_keys server/fedhelp_server client/fedhelp_client tests benchmarks

proto: dev
	$(BIN)/python -m grpc_tools.protoc --plugin=$(BIN)/protoc-gen-mypy \
		--plugin=$(BIN)/protoc-gen-mypy_grpc --proto_path=proto --python_out=. --grpc_python_out=. \
		--mypy_out=quiet:. --mypy_grpc_out=quiet:. proto/fedhelp_secure/wire/v1/*.proto
	git diff --exit-code -- fedhelp_secure/wire/v1

bench: dev
	$(BIN)/python benchmarks/demo_seeds.py $(BENCH)

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
