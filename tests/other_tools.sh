#!/usr/bin/env bash
# What strand shares with other tools. Runs the python of docs/data.md: pyarrow and DuckDB read a shard that strand
# wrote, strand adopts one that pyarrow wrote. Then packs the same samples as numpy, safetensors and tarfile write
# them, three times to the same data set. Needs python3 with venv and pip, and a built `strand`; the packages go into
# a folder that is removed again.
#
# Usage: tests/other_tools.sh [path of strand]
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
strand=$(realpath "${1:-$root/target/release/strand}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

awk '/^```python$/ { code = 1; next } /^```$/ { code = 0 } code' "$root/docs/data.md" > page.py
python3 -m venv venv
venv/bin/pip install --quiet pyarrow duckdb numpy safetensors xxhash

"$strand" data synth --out data/shapes --train-rows 200 --held-out-rows 20 --quiet
venv/bin/python page.py

encoder='{"kind": "random", "hash": "0", "image_size": 224, "sampling": "middle:4", "question_conditioned": false}'
printf '%s' "$encoder" > encoder.json
"$strand" data inspect data/mine --quiet
"$strand" data pack --adopt data/mine --encoder encoder.json --quiet
"$strand" data verify data/mine --quiet

venv/bin/python "$root/tests/other_tools.py"
pack() {
  "$strand" data pack --encoder encoder.json --json --quiet "$@" | grep '"id"'
}
first=$(pack --features features --annotations qa.json --out packed/npy)
for id in "$(pack --features samples.safetensors --annotations qa.jsonl --out packed/safetensors)" \
  "$(pack --features samples.tar --out packed/tar)"; do
  if [ "$id" != "$first" ]; then
    echo "the same samples gave another data set: $id, not $first" >&2
    exit 1
  fi
done
echo "three formats, one data set: $first"
