#!/bin/sh
# Makes .venv from the lock files; names what is missing on this machine in a sentence, with the command that brings it.
# usage: tools/setup.sh run|dev      PYTHON=python3.12 chooses the interpreter
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

missing() { echo "Missing: $1. Bring it with: $2" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || missing "Linux (this is $(uname -s))" "a Linux machine or container"
command -v "$python" >/dev/null 2>&1 || missing "python3 >= 3.11" "sudo apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || missing "python3 >= 3.11 (this is $("$python" -V 2>&1))" "sudo apt-get install python3.11 python3.11-venv, then make PYTHON=python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing "the venv module of Python" "sudo apt-get install python3-venv"
command -v gpg >/dev/null 2>&1 || missing "gpg" "sudo apt-get install gnupg"

[ -x .venv/bin/python ] || { echo "Creating .venv ..."; "$python" -m venv .venv; }
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
case $1 in
  run)
    echo "Installing what Raypost needs (once; some minutes on a slow line) ..."
    pip install --require-hashes -r requirements/run.txt
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$PWD/src" > "$site/raypost-source.pth"
    printf '#!%s\nfrom raypost.cli import main\nmain()\n' "$PWD/.venv/bin/python" > .venv/bin/raypost
    chmod 755 .venv/bin/raypost
    touch .venv/.run ;;
  dev)
    echo "Installing what developers need ..."
    pip install --require-hashes -r requirements/dev.txt
    touch .venv/.dev ;;
esac
