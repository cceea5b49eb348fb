# Two commands do everything on a machine with python3 (3.11 or later) and make:
#   make demo    the post's models on generated house sales, and a report
#   make test    the tests
PYTHON ?= python3
DEMO_VENV := .venvs/demo
TEST_VENV := .venvs/test
PIP := -m pip install --quiet --disable-pip-version-check
export JAX_PLATFORMS ?= cpu

.PHONY: demo test lint docs-check requirements clean

demo: $(DEMO_VENV)/ready
	$(DEMO_VENV)/bin/ranef zillow --beyond --out demo

test: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  --ignore=tests/docs $(PYTEST_ARGS)

$(DEMO_VENV)/ready: requirements/run.txt pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python $(PIP) --require-hashes -r requirements/run.txt
	$(DEMO_VENV)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(TEST_VENV)/ready: requirements/test.txt pyproject.toml
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python $(PIP) --require-hashes -r requirements/test.txt
	$(TEST_VENV)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	touch $@

# Format, lint, types and import contracts, in the test environment with the linters added.
lint: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/python $(PIP) --require-hashes -r requirements/ci.txt
	$(TEST_VENV)/bin/ruff format --check src tests
	$(TEST_VENV)/bin/ruff check src tests
	$(TEST_VENV)/bin/pyright --pythonpath $(TEST_VENV)/bin/python
	$(TEST_VENV)/bin/lint-imports

# The code blocks of README and docs, each page run from top to bottom.
docs-check: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/python -m pytest -n 2 tests/docs

requirements:
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --extra all --group build -o requirements/run.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --extra all --group build --group test -c requirements/run.txt \
	  -o requirements/test.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --extra all --group build --group test --group lint -c requirements/test.txt \
	  -o requirements/ci.txt

clean:
	rm -rf .venvs .cache demo
