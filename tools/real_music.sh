#!/usr/bin/env bash
# Real music as an AudioCraft data set, from Debian's packages or from a folder: tools/real_music.sh --help
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
if ! command -v "$python" >/dev/null; then
  echo "$python does not exist: run \`make install\` in $root, or set PYTHON" >&2
  exit 2
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m tools.real_music "$@"
