#!/usr/bin/env bash
# strand against Hugging Face transformers: random LLaMAs with grouped-query attention are imported, compared logit by
# logit and by their greedy tokens, exported, loaded by transformers and compared again; one is trained with LoRA and
# exported merged, and as an adapter that PEFT loads; an adapter of PEFT's is imported. Needs python3 with venv, a C
# compiler, a way to PyPI, 2 GB of disk, and a release build.
#
# Usage: tests/hugging_face.sh [--programs FOLDER] [--work FOLDER]
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH=$here/bench/shared exec python3 "$here/hugging_face/main.py" "$@"
