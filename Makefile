# Two commands do everything on a machine with python3 (3.11 or later) and make:
#   make demo    the post's models on generated house sales, and a report
#   make test    the tests, in five minutes; make test-all runs the long ones too
PYTHON ?= python3
DEMO_VENV := .venvs/demo
TEST_VENV := .venvs/test
SOURCES := src tests docs hatch_build.py
PIP := -m pip install --quiet --disable-pip-version-check
export JAX_PLATFORMS ?= cpu

.PHONY: demo test test-long test-all lint package docs docs-check requirements clean

demo: $(DEMO_VENV)/ready
	$(DEMO_VENV)/bin/ranef zillow --beyond --out demo

PYTEST := $(TEST_VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
  --ignore=tests/docs

test: $(TEST_VENV)/ready
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-long: $(TEST_VENV)/ready
	$(PYTEST) -m long $(PYTEST_ARGS)

test-all: test test-long

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

$(TEST_VENV)/linters: requirements/ci.txt $(TEST_VENV)/ready
	$(TEST_VENV)/bin/python $(PIP) --require-hashes -r requirements/ci.txt
	touch $@

# Format, lint, types and import contracts, in the test environment with the linters added. mypy
# reads a user's script, and the package as installed.
lint: $(TEST_VENV)/linters
	$(TEST_VENV)/bin/ruff format --check $(SOURCES)
	$(TEST_VENV)/bin/ruff check $(SOURCES)
	$(TEST_VENV)/bin/pyright --pythonpath $(TEST_VENV)/bin/python
	$(TEST_VENV)/bin/mypy --strict --cache-dir .cache/mypy tests/typed/user_script.py
	$(TEST_VENV)/bin/lint-imports

# The two archives of a release, in dist/, and whether a package index can show their page.
package: $(TEST_VENV)/linters
	rm -rf dist
	$(TEST_VENV)/bin/python -m build --no-isolation
	$(TEST_VENV)/bin/twine check --strict dist/*

$(TEST_VENV)/sphinx: requirements/docs.txt $(TEST_VENV)/ready
	$(TEST_VENV)/bin/python $(PIP) --require-hashes -r requirements/docs.txt
	touch $@

# The site, in build/docs/html: pages, reference, and the gallery, whose examples run. A warning is
# an error.
docs: $(TEST_VENV)/sphinx
	$(TEST_VENV)/bin/python -m sphinx -q -W --keep-going -b html -d build/docs/doctrees \
	  docs build/docs/html

# The code blocks of README and docs, each page run from top to bottom, the links, and the site in
# a browser.
docs-check: docs
	$(TEST_VENV)/bin/python -m pytest -n 2 tests/docs

requirements:
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --extra all --group build -o requirements/run.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --extra all --group build --group test -c requirements/run.txt \
	  -o requirements/test.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --extra all --group build --group test --group docs \
	  -c requirements/test.txt -o requirements/docs.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 \
	  pyproject.toml --extra all --group build --group test --group lint -c requirements/docs.txt \
	  -o requirements/ci.txt

clean:
	rm -rf .venvs .cache demo dist build docs/examples
