PYTHON ?= python3
CORES ?= 2
BIN := .venv/bin

SLURM_PACKAGES := slurmctld slurmd slurm-client munge

.PHONY: demo run venv test test-fast test-slow browser vendor slurm test-slurm rehearsal bench fuzz docs lint
.DEFAULT_GOAL := demo

# The whole workflow on the embedded demo data set, from nothing to scores. Two network jobs run at a time, each on half
# of the cores: for small networks on a CPU that is faster than one job on all cores.
demo: venv
	$(BIN)/python workflow/run.py --cores $(CORES) --resources gpu=2
	@echo
	@cat results/demo/summary.md
	@echo
	@echo "Scores:     results/demo/summary.md"
	@echo "Overview:   results/demo/audit/overview.html"
	@echo "Audit page: results/demo/audit/index.html"

# A run that the same command continues after any kill:
# make run ARGS="--cores 8 --resources gpu=2 --configfile configs/voc12.yaml"
ARGS ?= --cores $(CORES)
run: venv
	@$(BIN)/python workflow/run.py $(ARGS)

venv: .venv/installed

.venv/installed: pyproject.toml envs/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "getam needs Python >= 3.11, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c envs/constraints.txt -e '.[workflow,export,dev,docs]'
	@# pydensecrf2 has to be compiled, so it may be missing: the dense CRF is torch's then.
	@$(BIN)/pip install --quiet --disable-pip-version-check -c envs/constraints.txt 'getam[crf]' >.venv/crf.log 2>&1 || \
		echo "pydensecrf2 was not built, see .venv/crf.log: torch computes the dense CRF, and gives the same labels"
	@touch $@

test: test-fast test-slow

# Two processes, each taking half of the files, and then what the other has not begun: most tests use a single thread.
test-fast: venv browser
	$(BIN)/pytest -m 'not slow and not slurm' -n 2 --dist worksteal

# Most of it is whole runs of the workflow; the two of the campaign of kills take a core each.
test-slow: venv
	$(BIN)/pytest -m slow -n 2 --dist worksteal

# Installs Chromium for the tests of the audit page; without it they are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } || \
		echo "No Chromium: the tests of the audit page will be skipped. To run them: apt-get install chromium" >&2

# Copies the JavaScript libraries of the audit page, in the versions of package-lock.json; needs npm and the network.
vendor:
	cd getam/pages/templates/vendor && npm ci --ignore-scripts --no-audit --no-fund && \
		cp node_modules/preact/dist/preact.umd.js preact.js && cp node_modules/preact/LICENSE LICENSE.preact && \
		cp node_modules/preact/hooks/dist/hooks.umd.js preact-hooks.js && \
		cp node_modules/htm/dist/htm.umd.js htm.js && cp node_modules/htm/LICENSE LICENSE.htm && \
		sed -i '/^\/\/# sourceMappingURL=/d' *.js && rm -r node_modules && \
		sha256sum package.json package-lock.json LICENSE.* *.js >SHA256SUMS

# Installs what starts a Slurm cluster on this machine; fails with a message where that is not possible.
slurm: venv
	@command -v slurmctld slurmd sbatch munged >/dev/null || { \
		test "$$(id -u)" = 0 || { echo "Slurm is not installed, and only root can: $(SLURM_PACKAGES)" >&2; exit 1; }; \
		command -v apt-get >/dev/null || { echo "Slurm is not installed, and there is no apt-get: install" \
			"slurmctld, slurmd, sbatch, munged" >&2; exit 1; }; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $(SLURM_PACKAGES); }
	@$(BIN)/python tests/support/slurm_cluster.py

# Tests the workflow as jobs of such a cluster, which is removed afterwards.
test-slurm: slurm
	$(BIN)/pytest -m slurm -s tests/workflow/test_slurm.py

# Trains every full-size network of configs/voc12.yaml for two steps on the demo's images: minutes on two cores.
rehearsal: venv
	$(BIN)/snakemake --cores $(CORES) --configfile configs/voc12.yaml configs/rehearsal.yaml \
		--config data='{root: data/demo}'
	@echo
	@cat results/rehearsal/summary.md

# Measures time and memory against literal implementations; exits with 1 if a limit that the project promises is missed.
bench: venv
	$(BIN)/python -m benchmarks

# Changes honest files at random, and reads them by every reader of foreign bytes; keeps what it finds in fuzz_findings/.
fuzz: venv
	$(BIN)/python tests/fuzz

# Builds the manual in site/; a warning is an error.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: venv docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
