#!/usr/bin/env bash
# Tests that the tarball needs nothing but glibc and a shell.
#
#   sudo installers/bundle/check.sh TARBALL FOLDER MODEL.gguf
#
# Unpacks it into a minimal system without Python (created once, in FOLDER; needs: apt install debootstrap gcc python3), serves
# MODEL.gguf on localhost, port CHECK_PORT (18328), with an empty PATH, and requests a vector. Then it adds kernels that crash,
# and requests a vector again.
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
[[ ! -e $system/usr/bin/python3 ]] || fail "the minimal system contains a Python"
tar -C "$system/opt" -xf "$tarball"
home=/opt/$(basename "$tarball" .tar.xz)
cp "$model" "$system/opt/model.gguf"
# Not a function: signals to background jobs must reach the program, not a subshell.
inside=(chroot --userspec=nobody:nogroup "$system" /usr/bin/env -i PATH= HOME=/tmp/home)

ask() { curl -sf -m 60 "$@"; }
daemon=''
serve() {
  "${inside[@]}" "$home/edgeembed" serve --port "$port" --model /opt/model.gguf 2>"$folder/serve.log" &
  daemon=$!
  for _ in $(seq 240); do ask -o /dev/null "http://127.0.0.1:$port/readyz" && break; kill -0 "$daemon" || break; sleep 0.5; done
  numbers=$(ask "http://127.0.0.1:$port/v1/embeddings" -H 'content-type: application/json' -d '{"input":"hello"}' |
    tr -cd , | wc -c) || { cat "$folder/serve.log" >&2; fail "the daemon does not respond"; }
  [[ $numbers -gt 100 ]] || { cat "$folder/serve.log" >&2; fail "the response has no vector"; }
}
mode() { ask "http://127.0.0.1:$port/health" | sed 's/"demotions".*//; s/.*"mode": *"\([^"]*\)".*/\1/'; }
computing() {
  "$here/variant.py" "$(ask "http://127.0.0.1:$port/v1/status" | grep -oE '"llama_cpp": *"[^"]*"')"
}
stop() {
  kill -TERM "$daemon"
  wait "$daemon" || fail "the daemon exited with status $?"
}

echo "== with an empty PATH"
"${inside[@]}" "$home/edgeembed" --version
serve
[[ $(mode) == cpu ]] || { cat "$folder/serve.log" >&2; fail "unexpected mode $(mode)"; }
echo "   vector computed in mode $(mode), kernels $(computing)"
if [[ $(uname -m) == x86_64 ]]; then
  wanted=$("$here/variant.py")
  [[ $(computing) == "$wanted" ]] || fail "expected kernels for $wanted, according to the flags of this processor"
fi
stop

echo "== fallback from kernels that crash"
library=$(dirname "$(find "$system$home/python" -name 'libggml-cpu-*.so' | head -1)")
gcc -shared -fPIC -o "$library/libggml-cpu-trap.so" "$here/trap.c"
serve
grep -E "mode .* failed: |does not work yet" "$folder/serve.log" | head -3 | sed 's/^/   /'
[[ $(mode) == cpu-oldest ]] || { cat "$folder/serve.log" >&2; fail "unexpected mode $(mode)"; }
echo "   vector computed in mode $(mode), kernels $(computing)"
stop
rm "$library/libggml-cpu-trap.so"
echo "== all checks passed"
