#!/usr/bin/env bash
# Adds the package itself. Snakemake runs this in the new environment, from the folder of the project.
set -euo pipefail
pip install --quiet --no-deps --editable .
