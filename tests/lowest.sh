#!/usr/bin/env bash
# Runs the quick tests with the lowest version of every dependency that pyproject.toml declares.
# Usage: lowest.sh [PYTEST ARGUMENT ...]
# TORCH, such as torch==2.13.0, takes that torch instead of the lowest declared one. Exit status 75: they cannot be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv-lowest

[ -x "$venv/bin/uv" ] || { ${PYTHON:-python3} -m venv "$venv" && "$venv/bin/python" -m pip install --quiet uv; } || exit 75
echo "${TORCH:-}" >"$venv/override.txt"
install() {
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "$@" || exit 75
}
install --resolution lowest-direct --override "$venv/override.txt" -r pyproject.toml --extra torch --extra html
# What only the tests need may be new, as long as it leaves these alone.
"$venv/bin/uv" pip freeze --python "$venv/bin/python" >"$venv/lowest.txt"
install --constraint "$venv/lowest.txt" 'pytest>=8' 'pytest-timeout>=2.3' \
    'pytest-xdist>=3.5' 'hypothesis>=6.100' setuptools
make native NATIVE_PYTHON="$venv/bin/python"
cat "$venv/lowest.txt"
tests=(tests/test_measure.py tests/test_layers.py tests/test_left_as_found.py tests/test_capture.py tests/test_cli.py
    tests/test_library.py tests/test_bundled_captures.py tests/test_followed_calls.py)
PYTHONPATH=$PWD "$venv/bin/python" -m pytest -q -p no:cacheprovider "${@:-${tests[@]}}"
