#!/usr/bin/env bash
# Builds llama.cpp's module for graphics cards of all makers, with Vulkan: libggml-vulkan.so. It needs no card and no driver.
#
#   installers/vulkan/build.sh FOLDER                     writes libggml-vulkan.so to FOLDER
#   installers/vulkan/build.sh --install                  puts it into the llama.cpp of $PYTHON's edgeembed
#   installers/vulkan/build.sh --wheel FILE FOLDER        writes that wheel with the module to FOLDER
#
#   --headers FOLDER       folder that has vulkan/vulkan.hpp, instead of the system's
#   --headers-from SUITE   download the Vulkan headers of another release of Debian or Ubuntu, such as trixie, and install nothing
#   --work FOLDER          build folder; an interrupted build resumes with the same command and folder
#
# Needs g++, Python with pip, which downloads CMake and llama.cpp's source, and from the distribution (Debian's names): glslc,
# libvulkan1, libvulkan-dev, spirv-headers. The headers of Debian 12 are too old; --headers-from trixie gets newer ones. PYTHON sets
# the interpreter (python3), GLSLC the compiler of shaders, JOBS the number of concurrent compilers (2).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
glslc=${GLSLC:-glslc}
folder="" wheel="" install="" headers="" suite="" work=""

die() {
  echo "$1" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --wheel) wheel=$(realpath -e "${2:?"--wheel needs a file"}"); shift 2 ;;
    --install) install=yes; shift ;;
    --headers) headers=$(realpath -e "${2:?"--headers needs a folder"}"); shift 2 ;;
    --headers-from) suite=${2:?"--headers-from needs the name of a release"}; shift 2 ;;
    --work) work=${2:?"--work needs a folder"}; shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) die "unknown option $1 (see --help)" ;;
    *) folder=$1; shift ;;
  esac
done
[ -n "$folder" ] || [ -n "$install" ] || die "usage: $0 [--wheel FILE] FOLDER, or $0 --install (see --help)"
[ -z "$headers" ] || [ -z "$suite" ] || die "--headers and --headers-from exclude each other"

if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work" ${folder:+"$folder"}
work=$(cd "$work" && pwd)

requirement=$("$python" "$here/../metadata.py" llama)
pinned=${requirement##*==}
if [ -n "$install" ]; then
  target=$("$python" - "$pinned" <<'PYTHON'
import importlib.metadata, importlib.util, pathlib, sys
try:  # the copy inside a release wheel, or the installed one
    from edgeembed.engine import llama_package
    folder, package = llama_package.package_folder(), llama_package.find_distribution()
except ImportError:
    spec = importlib.util.find_spec("llama_cpp")
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    package = importlib.metadata.distribution("llama-cpp-python") if folder else None
if folder is None or package is None:
    sys.exit(f"{sys.executable} has no llama-cpp-python: install edgeembed there first, or set PYTHON")
if (found := package.version.partition("+")[0]) != sys.argv[1]:
    sys.exit(f"{sys.executable} has llama-cpp-python {found}; the module is for {sys.argv[1]}")
print(pathlib.Path(folder, "lib"))
PYTHON
  )
  [ -w "$target" ] || die "$target is not writable"
fi

# --- compilers and headers --------------------------------------------------------------------------------------------

command -v "$glslc" >/dev/null || die "glslc, the compiler of shaders, not found: apt install glslc, or set GLSLC"
command -v g++ >/dev/null || die "g++ not found: apt install g++"
printf '#version 450\nvoid main() {}\n' >"$work/probe.comp"
"$glslc" -fshader-stage=compute --target-env=vulkan1.3 -o "$work/probe.spv" "$work/probe.comp" 2>"$work/probe.log" ||
  die "$("$glslc" --version | head -1) cannot compile for Vulkan 1.3; 2023.2 can: $(head -1 "$work/probe.log")"

# Through the lists and keys of apt, but in folders of its own: nothing is installed, and the next apt-get knows nothing of it.
fetch_headers() {
  command -v apt-get >/dev/null || die "--headers-from needs apt; elsewhere use --headers"
  local distribution release own=$work/apt address key
  # shellcheck disable=SC1091
  read -r distribution release < <(. /etc/os-release && echo "$ID $VERSION_CODENAME")
  address=$(apt-get indextargets --format "\$(RELEASE)|\$(COMPONENT)|\$(REPO_URI)" "Created-By: Packages" |
    sed -n "s/^$release|main|//p" | head -1)
  [ -n "$address" ] || die "apt knows no source of $release: run apt-get update, or use --headers"
  key=/usr/share/keyrings/$distribution-archive-keyring.gpg
  mkdir -p "$own"/{lists/partial,cache/archives/partial,parts,get}
  [ -e "$key" ] && key="[signed-by=$key]" || key=""
  echo "deb $key $address $suite main" >"$own/sources.list"
  local options=(-q -o "Dir::Etc::SourceList=$own/sources.list" -o "Dir::Etc::SourceParts=$own/parts" -o "APT::Sandbox::User="
    -o "Dir::State::Lists=$own/lists" -o "Dir::Cache=$own/cache")
  { apt-get "${options[@]}" update && (cd "$own/get" && apt-get "${options[@]}" download libvulkan-dev); } >"$own/log" 2>&1 ||
    die "cannot download libvulkan-dev of $suite: $(grep -m1 '^E:' "$own/log")"
  dpkg -x "$own"/get/libvulkan-dev_*.deb "$work/vulkan"
}

if [ -n "$suite" ]; then
  [ -d "$work/vulkan" ] || fetch_headers
  headers=$work/vulkan/usr/include
fi
includes=(${headers:+-I"$headers"})

compiles() {
  echo "$1" | g++ -std=c++17 -fsyntax-only "${includes[@]}" -x c++ - 2>/dev/null
}
compiles "#include <vulkan/vulkan.hpp>" ||
  die "vulkan/vulkan.hpp not found: apt install libvulkan-dev, or use --headers or --headers-from"
if ! compiles $'#include <vulkan/vulkan.hpp>\nvk::LayerSettingEXT setting;'; then
  version=$(printf '#include <vulkan/vulkan_core.h>\nVK_HEADER_VERSION' | g++ -E -P "${includes[@]}" -x c++ - | tail -1)
  die "the Vulkan headers are too old: release $version has no vk::LayerSettingEXT (1.4.309 has). Use --headers-from trixie on Debian 12, or --headers"
fi
compiles "#include <spirv/unified1/spirv.hpp>" || die "spirv/unified1/spirv.hpp not found: apt install spirv-headers"
library=$(find /usr/lib /usr/lib64 /usr/local/lib -maxdepth 2 -name 'libvulkan.so*' 2>/dev/null | sort | head -1)
[ -n "$library" ] || die "Vulkan's loader not found: apt install libvulkan1"

# --- build ------------------------------------------------------------------------------------------------------------

if [ ! -e "$work/tools/ready" ]; then
  "$python" -m venv "$work/tools"
  "$work/tools/bin/pip" install --quiet --no-cache-dir cmake ninja
  touch "$work/tools/ready"
fi
"$here/../llama_source.sh" "$work/tools/bin/pip" "$requirement" "$work"

# A module (BACKEND_DL) is loaded at run time: where that fails, such as without Vulkan's loader, the processor is still used.
export PATH="$work/tools/bin:$PATH"
cmake -S "$work/source/vendor/llama.cpp" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
  -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU=OFF -DGGML_VULKAN=ON \
  -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
  ${headers:+-DVulkan_INCLUDE_DIR="$headers"} -DVulkan_LIBRARY="$library" -DVulkan_GLSLC_EXECUTABLE="$(command -v "$glslc")" \
  -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN" >"$work/cmake.log" 2>&1 || { tail -20 "$work/cmake.log" >&2; die "CMake failed"; }
cmake --build "$work/build" --target ggml-vulkan --parallel "${JOBS:-2}"

module=$work/libggml-vulkan.so
cp -L "$(find "$work/build" -name libggml-vulkan.so)" "$module"
strip --strip-unneeded "$module"
if [ -n "$install" ]; then
  install -m644 "$module" "$target"
  echo "$target/libggml-vulkan.so"
fi
[ -n "$folder" ] || exit 0
if [ -n "$wheel" ]; then
  "$python" "$here/../wheel/add_module.py" "$wheel" "$module" vulkan "$folder"
else
  install -m644 "$module" "$folder"
  echo "$folder/libggml-vulkan.so"
fi
