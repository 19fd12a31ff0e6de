#!/bin/sh
# Installs the wheel of dist/ with the locked dependencies in an empty environment and runs the demonstration from there.
set -eu
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/run.txt
"$place/venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps dist/raypost-*.whl
cd "$place"
"$place/venv/bin/raypost" demo --once --json-file figures.json
"$place/venv/bin/python" - <<'PY'
import json
figures = json.load(open("figures.json"))
assert figures["state"] == "delivered" and figures["pixels_identical"] and figures["instances"] == 40, figures
PY
