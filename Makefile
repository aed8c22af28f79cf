# make search   from nothing to the result of a real search (configs/quickstart.yml)
# make test     from nothing to all tests passed
# make docs     the documentation as a site, in site/
# make check    what CI runs: tests, lint, types

# The newest that runs: a pyenv shim, for example, may have the name and not the interpreter.
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin

# As pip would on one core, but on all of them, and without the tests of libraries; what does not compile is its affair.
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true

.PHONY: search test docs check lint clean

search: $(VENV)/installed
	$(BIN)/balenas search configs/quickstart.yml

test: $(VENV)/installed-with-tests
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

docs: $(VENV)/installed-with-tests
	$(BIN)/mkdocs build --strict

check: test lint

lint: $(VENV)/installed-with-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml | $(VENV)
	$(BIN)/pip install --quiet --no-compile -e .
	$(COMPILE)
	touch $@

$(VENV)/installed-with-tests: pyproject.toml | $(VENV)
	$(BIN)/pip install --quiet --no-compile -e '.[test]'
	$(COMPILE)
	touch $@ $(VENV)/installed

$(VENV):
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed, and none was found."; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

clean:
	rm -rf $(VENV) build site *.egg-info
