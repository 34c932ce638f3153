# Everything runs in .venv, which is made once and updated when the lock file changes.
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb appendix/*.ipynb))

# Progress shows at once, also where the output goes to a file.
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help book check test lab student grade run run-gpu benchmark lock clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "daitir needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

book check test run grade: export DAITIR_PROFILE = classroom
# Threads that spin while they wait are several times slower beside another busy program.
book check test run grade: export OMP_WAIT_POLICY = PASSIVE

book: $(READY)   ## set up, execute what is stale, build the book into _build/html
	$(BIN)/python -m daitir.book.provenance run
	$(BIN)/jupyter-book build . -n -W --keep-going

check: $(READY)  ## set up, check form, types, layers and the quick tests, in a minute
	$(BIN)/ruff check
	$(BIN)/ruff format --check daitir tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:nbval -m "not slow"

test: $(READY)   ## set up, run every check, the notebooks included
	$(BIN)/ruff check
	$(BIN)/ruff format --check daitir tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not site"
	$(if $(NOTEBOOKS),$(BIN)/python -m pytest --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 --nbval-kernel-startup-timeout=120 $(NOTEBOOKS))
	$(BIN)/jupyter-book build . -n -W --keep-going
	$(BIN)/python -m pytest -m site tests/book

# The root is this folder, since links and pictures of chapters lead to book/.
lab: $(READY)    ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir=. notebooks/00_welcome.ipynb

student: $(READY) ## write the chapters without their solutions into _build/student
	$(BIN)/python book/homework.py student

grade: $(READY)  ## tell which exercises of a hand-in pass, FILE=path.ipynb
	$(if $(FILE),,$(error name the hand-in: make grade FILE=path.ipynb))
	$(BIN)/python book/homework.py grade "$(FILE)"

run: $(READY)    ## execute all notebooks under the classroom profile
	$(BIN)/python -m daitir.book.provenance run --all

run-gpu: $(READY) ## execute all notebooks under the gpu profile into _build/gpu; PROFILE=paper COCO=DIR: the papers' setting
ifeq ($(PROFILE),paper)
	$(BIN)/python -m daitir.cli paper run $(if $(COCO),--coco $(COCO)) $(REPRODUCE)
else
	DAITIR_PROFILE=gpu $(BIN)/python -m daitir.book.provenance run --out _build/gpu
endif

benchmark: $(READY) ## run the scripts in benchmarks/
	for script in benchmarks/*.py; do $(BIN)/python "$$script" || exit 1; done

# A fresh environment holds nothing but what daitir needs, so its freeze is the lock. What only
# exists for Linux gets a marker so that the lock installs on a Mac too. uv adds the hashes of all
# files of each version, for every system, and what other systems need besides; with hashes in the
# file pip refuses any other file. It costs 0.23 MB and no time that could be measured.
lock:            ## renew requirements.lock with the newest versions
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --upgrade pip ".[book,test]"
	.lock-venv/bin/python -m pip freeze --all --exclude pip --exclude daitir \
	  | sed -E 's/^((nvidia|cuda|triton).*)$$/\1 ; sys_platform == "linux"/' > .lock-venv/frozen.txt
	.lock-venv/bin/python -m pip install uv
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
	  --python-version $$(.lock-venv/bin/python -c 'import platform; print(platform.python_version())') \
	  .lock-venv/frozen.txt --output-file requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .lock-venv build

clean:           ## remove the built book and the caches; .venv and _build/gpu stay
	rm -rf _build/html _build/.doctrees _build/.jupyter_cache _build/jupyter_execute
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
