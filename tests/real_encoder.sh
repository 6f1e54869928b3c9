#!/usr/bin/env bash
# Extraction at the real shapes: EVA ViT-g and the Q-Former of InstructBLIP with random weights, over a folder of clips
# with an annotations.json. Extracts once without interruption, once killed with SIGKILL in the middle and started
# again, and compares the two folders byte for byte. Needs the programs of a release build, ffmpeg, and 10 GB of memory;
# on two cores a frame takes some seconds.
#
# Usage: tests/real_encoder.sh CLIPS [FRAMES] [folder of strand, strand-worker and random_encoder]
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
clips=$(realpath "${1:?usage: tests/real_encoder.sh CLIPS [FRAMES] [PROGRAMS]}")
frames=${2:-4}
programs=$(realpath "${3:-$root/target/release}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

LD_LIBRARY_PATH="$root/libtorch/lib" "$programs/random_encoder" "$work/model" --question-conditioned

# Becomes the program itself, so that its process can be killed.
extract() {
  exec "$programs/strand" data extract --annotations "$clips/annotations.json" --media "$clips" \
    --encoder "$work/model" --frames "$frames" --batch 4 --jobs 1 --out "$work/$1"
}

# Whole files among the parts: one that is being written has a # in its name.
parts() {
  find "$work/$1/parts" -type f ! -name '*#*' 2>/dev/null | wc -l
}

start=$SECONDS
(extract whole)
echo "whole: $((SECONDS - start)) s"

(extract killed) &
process=$!
while [ "$(parts killed)" -lt 2 ]; do
  kill -0 "$process"
  sleep 0.2
done
kill -KILL "$process"
wait "$process" || true
echo "killed with $(parts killed) clips encoded"

start=$SECONDS
(extract killed)
echo "again: $((SECONDS - start)) s"
diff --recursive "$work/whole" "$work/killed"
"$programs/strand" data verify "$work/killed"
echo "the same bytes: $(cd "$work/whole" && echo *)"
