#!/usr/bin/env bash
# Compiles llama.cpp for all processors of an architecture: llama.sh WORK [CMAKE_OPTION...]
#
# WORK/build/bin receives the libraries, with a module for each generation of processors (GGML_BACKEND_DL, GGML_CPU_ALL_VARIANTS): 14
# on x86-64. WORK/source is llama-cpp-python's source archive. An interrupted build resumes with the same command and folder; one
# that is complete is used as it is, unless pyproject.toml pins another version.
#
# Needs a C++ compiler and Python with pip, which downloads CMake and llama.cpp's source. PYTHON sets the interpreter (python3), JOBS
# the number of concurrent compilers (2). 14 minutes on two idle cores.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
mkdir -p "${1:?"usage: $0 WORK [CMAKE_OPTION...]"}"
work=$(cd "$1" && pwd)
shift

if [ ! -e "$work/tools/ready" ]; then
  "$python" -m venv "$work/tools"
  "$work/tools/bin/pip" install --quiet cmake ninja
  touch "$work/tools/ready"
fi
requirement=$("$python" "$here/../metadata.py" llama)
if [ "$(cat "$work/llama-ready" 2>/dev/null)" = "$requirement" ]; then exit 0; fi
if [ "$(cat "$work/llama-begun" 2>/dev/null)" != "$requirement" ]; then
  rm -rf "$work/source" "$work/build" "$work/llama-ready"
  echo "$requirement" >"$work/llama-begun"
fi
"$here/../llama_source.sh" "$work/tools/bin/pip" "$requirement" "$work"
llama=$work/source/vendor/llama.cpp

# Modules for Armv9.2 need a compiler that has SME: GCC 14. Without them such a processor takes the module for Armv8.6.
compiler=$(sed -n 's/^set(CMAKE_CXX_COMPILER \(.*\))/\1/p' "$work/toolchain/toolchain.cmake" 2>/dev/null || true)
if ! "${compiler:-${CXX:-c++}}" -march=armv9.2-a+sme -x c++ -c -o /dev/null /dev/null 2>/dev/null; then
  sed -i '/ggml_add_cpu_backend_variant(armv9\.2/d' "$llama/ggml/src/CMakeLists.txt"
fi

# The two -fno flags work around a bug of GCC 12 on processors with AMX (see pyproject.toml).
export PATH="$work/tools/bin:$PATH" CXXFLAGS="${CXXFLAGS:-} -fno-tree-dse -fno-dse"
if [ ! -e "$work/build/build.ninja" ]; then
  cmake -S "$llama" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON "$@" \
    -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DGGML_NATIVE=OFF -DGGML_OPENMP=ON \
    -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN" >"$work/cmake.log" 2>&1 ||
    { tail -20 "$work/cmake.log" >&2; exit 1; }
fi
cmake --build "$work/build" --target llama --parallel "${JOBS:-2}"
echo "$requirement" >"$work/llama-ready"
