#!/usr/bin/env bash
# Runs the python of docs/data.md: pyarrow and DuckDB read a shard that strand wrote, strand adopts one that pyarrow
# wrote. Needs python3 with venv and pip, and a built `strand`; the packages go into a folder that is removed again.
#
# Usage: tests/other_tools.sh [path of strand]
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
strand=$(realpath "${1:-$root/target/release/strand}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk '/^```python$/ { code = 1; next } /^```$/ { code = 0 } code' "$root/docs/data.md" > "$work/page.py"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pyarrow duckdb numpy xxhash

cd "$work"
"$strand" data synth --out data/shapes --train-rows 200 --held-out-rows 20 --quiet
venv/bin/python page.py

encoder='{"kind": "random", "hash": "0", "image_size": 224, "sampling": "middle:4", "question_conditioned": false}'
printf '%s' "$encoder" > encoder.json
"$strand" data inspect data/mine --quiet
"$strand" data pack --adopt data/mine --encoder encoder.json --quiet
"$strand" data verify data/mine --quiet
