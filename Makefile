# `make run`: the environment and the whole study in params.yaml. `make test`: the environment and the checks.
PYTHON ?= python3.11
CORES ?= all
VENV := .venv
PYTEST := OMP_NUM_THREADS=1 pytest
# tests of one file run on one worker, and files run in the order of tests/conftest.py
TWO_WORKERS := -n 2 --dist loadfile --no-loadscope-reorder --durations 15
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Snakemake does not start without a cache that it can write to
export XDG_CACHE_HOME := $(or $(XDG_CACHE_HOME),$(shell mkdir -p "$$HOME/.cache/snakemake" 2> /dev/null && \
	test -w "$$HOME/.cache/snakemake" && echo "$$HOME/.cache" || echo "$(CURDIR)/.mmfuse/cache"))

.PHONY: run test test-all test-slurm test-services test-faults slurm services check env ui lock clean

run: env
	mmfuse doctor
	snakemake --cores $(CORES) all
	@echo "report: $(CURDIR)/reports/index.html"

test: $(VENV)/.tested
	@echo "tests: passed, and nothing has changed since; run 'touch tests/conftest.py' to repeat them"

# dvc.lock is a result; a change of any other file that git tracks or would track reruns the tests
TESTED := $(filter-out dvc.lock,$(wildcard $(shell git ls-files --cached --others --exclude-standard)))

$(VENV)/.tested: $(TESTED) $(VENV)/.installed
	$(MAKE) check
	$(PYTEST) $(TWO_WORKERS) -m "not slurm and not services and not faults"
	touch $@

# `make test` with the tests of servers and Slurm
test-all: env check services slurm
	$(PYTEST) $(TWO_WORKERS) -m "not faults"

test-slurm: env slurm
	$(PYTEST) -m slurm tests/test_slurm.py

test-services: env services
	$(PYTEST) -m services tests/test_services.py

# Slurm on one node, from Debian's packages; needs root to install and start it
slurm: env
	which slurmctld munged > /dev/null || (apt-get update -q && apt-get install -qq --no-install-recommends slurm-wlm munge)
	PYTHONPATH=tests python -c "import slurm_node, sys; sys.exit(slurm_node.missing() or 0)"

# an S3 server in a separate environment, and Debian's PostgreSQL; needs root to install the latter
services: env $(VENV)-services/.installed
	ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || (apt-get update -q && apt-get install -qq --no-install-recommends postgresql)
	PYTHONPATH=tests python -c "import services, sys; sys.exit(services.missing() or 0)"

$(VENV)-services/.installed: envs/services.lock
	$(PYTHON) -m venv $(VENV)-services
	$(VENV)-services/bin/pip install --quiet --no-deps --require-hashes -r envs/services.lock
	touch $@

# kills, full disks, dead servers, 10,000 generated inputs; needs root for the small disks. 100 kills of each engine take
# an hour; MMFUSE_KILLS=5 and MMFUSE_EXAMPLES=1000 are faster
test-faults: env
	MMFUSE_EXAMPLES=$${MMFUSE_EXAMPLES:-10000} $(PYTEST) tests/test_properties.py
	MMFUSE_KILLS=$${MMFUSE_KILLS:-100} $(PYTEST) -m faults tests/test_faults.py tests/test_colours.py

check: env
	ruff check src tests workflow
	ruff format --check src tests workflow
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

env: $(VENV)/.installed

# two steps: first what builds source packages, then everything; every file has a checksum, and pip resolves nothing
$(VENV)/.installed: envs/requirements.lock envs/build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { echo "error: the locked\
 environment needs Python 3.11, and $(PYTHON) is missing or another version: install it, or name it with 'make env PYTHON=/path/to/python3.11'" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --no-deps --require-hashes -r envs/build.lock
	pip install --quiet --no-deps --no-build-isolation --require-hashes -r envs/requirements.lock
	pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# through a variable: every user of the machine can read a command line, and an address may contain a password
ui: env
	@case "$$MLFLOW_TRACKING_URI" in http*) \
		echo "the runs are on the server in MLFLOW_TRACKING_URI: open its address in a browser" >&2; exit 2;; esac
	@mmfuse list studies
	@MLFLOW_BACKEND_STORE_URI=$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db} mlflow ui --host 127.0.0.1 --port 5000

# needs uv; the platform is the oldest Debian and glibc on which the study is tested
lock:
	uv pip compile envs/requirements.in --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
		--generate-hashes --output-file envs/requirements.lock --custom-compile-command "make lock"
	uv pip compile envs/services.in --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
		--constraint envs/requirements.lock \
		--generate-hashes --output-file envs/services.lock --custom-compile-command "make lock"
	grep -E '^(setuptools|setuptools-scm|wheel|packaging|vcs-versioning)$$' envs/requirements.in | cat - \
		| uv pip compile - --python-version 3.11 --constraint envs/requirements.lock \
		--generate-hashes --output-file envs/build.lock --custom-compile-command "make lock"

# removes all results and the datasets in data/raw, which are generated or downloaded again; keeps data/manual,
# data/external, the environment and MLflow's runs
clean:
	rm -rf data/raw data/prepared data/checkpoints data/resume data/fused reports/scores reports/analysis reports/downstream reports/tables reports/figures reports/viewer* reports/index* reports/metrics.json logs
