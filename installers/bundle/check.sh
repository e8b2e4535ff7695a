#!/usr/bin/env bash
# Shows that the tarball needs nothing of the system but glibc and a shell.
#
#   sudo installers/bundle/check.sh TARBALL FOLDER MODEL.gguf
#
# Unpacks it into a bare system without Python (made once, in FOLDER; needs: apt install debootstrap gcc python3) and, with an
# empty PATH, serves MODEL.gguf on localhost, port CHECK_PORT (18328), and asks it for a vector. Then it adds kernels that crash,
# and asks again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tarball=$(realpath "${1:?"usage: $0 TARBALL FOLDER MODEL.gguf"}")
mkdir -p "${2:?}"
folder=$(cd "$2" && pwd)
model=$(realpath "${3:?}")
port=${CHECK_PORT:-18328}
system=$folder/bare
fail() { echo "FAILED: $*" >&2; exit 1; }

if [[ ${INSIDE:-} != yes ]]; then
  if [[ ! -f $folder/base.tar ]]; then
    read -r mirror release < <(apt-get indextargets --format "\$(REPO_URI) \$(RELEASE)" 'Created-By: Packages' | head -1)
    rm -rf --one-file-system "$system"
    debootstrap --variant=minbase --include=ca-certificates "$release" "$system" "$mirror" >"$folder/debootstrap.log"
    tar -C "$system" -cf "$folder/base.tar" .
  fi
  rm -rf --one-file-system "$system"
  mkdir "$system"
  tar -C "$system" -xf "$folder/base.tar"
  INSIDE=yes exec unshare --mount --pid --fork --kill-child "$0" "$tarball" "$folder" "$model"
fi

mount -t proc proc "$system/proc"
[[ ! -e $system/usr/bin/python3 ]] || fail "the bare system has a Python"
tar -C "$system/opt" -xf "$tarball"
home=/opt/$(basename "$tarball" .tar.xz)
cp "$model" "$system/opt/model.gguf"
# Not a function: a signal for what runs in the background must reach the program, and not a shell around it.
inside=(chroot --userspec=nobody:nogroup "$system" /usr/bin/env -i PATH= HOME=/tmp/home)

ask() { curl -sf -m 60 "$@"; }
daemon=''
serve() {
  "${inside[@]}" "$home/edgeembed" serve --port "$port" --model /opt/model.gguf 2>"$folder/serve.log" &
  daemon=$!
  for _ in $(seq 240); do ask -o /dev/null "http://127.0.0.1:$port/readyz" && break; kill -0 "$daemon" || break; sleep 0.5; done
  numbers=$(ask "http://127.0.0.1:$port/v1/embeddings" -H 'content-type: application/json' -d '{"input":"hello"}' |
    tr -cd , | wc -c) || { cat "$folder/serve.log" >&2; fail "no answer"; }
  [[ $numbers -gt 100 ]] || { cat "$folder/serve.log" >&2; fail "no vector"; }
}
mode() { ask "http://127.0.0.1:$port/health" | sed 's/"demotions".*//; s/.*"mode": *"\([^"]*\)".*/\1/'; }
computing() {
  "$here/variant.py" "$(ask "http://127.0.0.1:$port/v1/status" | grep -oE '"llama_cpp": *"[^"]*"')"
}
stop() {
  kill -TERM "$daemon"
  wait "$daemon" || fail "the daemon ended with status $?"
}

echo "== with an empty PATH"
"${inside[@]}" "$home/edgeembed" --version
serve
[[ $(mode) == cpu ]] || { cat "$folder/serve.log" >&2; fail "it serves in mode $(mode)"; }
echo "   a vector came from mode $(mode), kernels $(computing)"
if [[ $(uname -m) == x86_64 ]]; then
  wanted=$("$here/variant.py")
  [[ $(computing) == "$wanted" ]] || fail "this processor's flags ask for $wanted"
fi
stop

echo "== kernels that crash are stepped over"
library=$(dirname "$(find "$system$home/python" -name 'libggml-cpu-*.so' | head -1)")
gcc -shared -fPIC -o "$library/libggml-cpu-trap.so" "$here/trap.c"
serve
grep -E "mode .* failed: |does not work yet" "$folder/serve.log" | head -3 | sed 's/^/   /'
[[ $(mode) == cpu-oldest ]] || { cat "$folder/serve.log" >&2; fail "it serves in mode $(mode)"; }
echo "   a vector came from mode $(mode), kernels $(computing)"
stop
rm "$library/libggml-cpu-trap.so"
echo "== all of it holds"
