#!/usr/bin/env bash
# Builds the llama-cpp-python wheel for the packages: one llama.cpp for all processors of this architecture.
#
#   installers/bundle/build-llama.sh FOLDER      writes llama_cpp_python-*.whl to FOLDER; 14 minutes on two idle cores
#
# Needs a C++ compiler and pip, which downloads CMake. PYTHON sets the interpreter (python3), JOBS the number of concurrent
# compilers. The wheel needs a glibc at least as new as that of the build machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:?"usage: $0 FOLDER"}
python=${PYTHON:-python3}
mkdir -p "$folder"

requirement=$("$python" "$here/../metadata.py" llama)

# GGML_BACKEND_DL makes each processor variant a module that is loaded at run time. By default CMake installs modules into the
# environment's bin/, where they are not found; they belong next to the library. The last two flags work around a bug of GCC
# 12 on processors with AMX (see pyproject.toml).
export CMAKE_ARGS="-DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU_ALL_VARIANTS=ON -DLLAVA_BUILD=OFF
 -DCMAKE_INSTALL_BINDIR=llama_cpp/lib -DCMAKE_INSTALL_RPATH=\$ORIGIN -DCMAKE_BUILD_TYPE=Release"
CMAKE_ARGS=$(tr -d '\n' <<<"$CMAKE_ARGS")
export CXXFLAGS="${CXXFLAGS:-} -fno-tree-dse -fno-dse"
export CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-2}

# The root of a wheel is site-packages: headers and duplicates of the libraries do not belong there. Wheels have no symbolic
# links, so they contain a copy of a library under each of its names; the longest name is not used.
"$python" -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python --wheel-dir "$folder" \
  --config-settings "wheel.exclude=lib/**;lib64/**;include/**;bin/**;llama_cpp/lib/*.so.*.*" "$requirement"
