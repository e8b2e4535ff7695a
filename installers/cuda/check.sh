#!/usr/bin/env bash
# Installs a wheel of build.sh with edgeembed and tests that it serves: on the GPU if there is one, and on the CPU, also without
# NVIDIA's libraries.
#
#   installers/cuda/check.sh WHEEL MODEL.gguf
#
# Uses a temporary virtual environment; pip downloads NVIDIA's libraries (400 MB) into it. PYTHON sets the interpreter.
# Exits with status 0 if all daemons responded.
set -euo pipefail
usage="usage: $0 WHEEL MODEL.gguf"
wheel=$(realpath -e "${1:?$usage}") model=$(realpath -e "${2:?$usage}")
work=$(mktemp -d) daemon=''
clean() {
  if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap clean EXIT
export EDGEEMBED_HOME=$work/home

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q "$wheel"
site=$("$work/venv/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")

serves() {
  : >"$work/log" # truncated now, so that the log of the previous daemon is not read
  "$work/venv/bin/edgeembed" serve --model "$model" --port 0 --offline "$@" 2>"$work/log" &
  daemon=$!
  for _ in $(seq 240); do
    grep -q '^ready' "$work/log" && break
    kill -0 "$daemon" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.5
  done
  url=$(sed -n 's/.*listens on \(http:[^,]*\),.*/\1/p' "$work/log")
  "$work/venv/bin/python" - "$url" "$*" <<'PYTHON'
import json, sys, urllib.request
url, flags = sys.argv[1:]
request = urllib.request.Request(f"{url}/v1/embeddings", b'{"input": "hello"}', {"content-type": "application/json"})
row = json.load(urllib.request.urlopen(request, timeout=120))["data"][0]["embedding"]
health = json.load(urllib.request.urlopen(f"{url}/health", timeout=60))
demotions = "; ".join(f"{demotion['mode']}: {demotion['reason']}" for demotion in health["demotions"])
print(f"ok    {flags or 'no flags'}: mode {health['mode']}, {row[0]:.6f} {row[1]:.6f} {row[2]:.6f} …  {demotions}")
PYTHON
  kill "$daemon"
  wait "$daemon" || true
  daemon=''
}

"$work/venv/bin/edgeembed" devices
serves
serves --device cuda
serves --device cpu
mv "$site/nvidia" "$site/nvidia-away"
echo "without NVIDIA's libraries:"
"$work/venv/bin/edgeembed" devices
serves
