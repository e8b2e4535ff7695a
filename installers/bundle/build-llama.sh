#!/usr/bin/env bash
# Builds the llama-cpp-python wheel that the packages carry: one llama.cpp for every processor of this architecture.
#
#   installers/bundle/build-llama.sh FOLDER      leaves llama_cpp_python-*.whl in FOLDER; 14 minutes on two idle cores
#
# Needs a C++ compiler and pip; pip brings CMake's Python side by itself. PYTHON names another interpreter than python3, JOBS
# the number of compilers at a time. The wheel needs the glibc of the machine that it was built on, or a later one.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:?"usage: $0 FOLDER"}
python=${PYTHON:-python3}
mkdir -p "$folder"

requirement=$("$python" "$here/../metadata.py" llama)

# GGML_BACKEND_DL makes each processor variant a module, which is loaded at run time. CMake would install modules into the
# environment's bin/, where nobody looks for them and where every folder of modules would be mixed with scripts; they belong
# beside the library. The last two flags cure GCC 12 on processors with AMX (see pyproject.toml).
export CMAKE_ARGS="-DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU_ALL_VARIANTS=ON -DLLAVA_BUILD=OFF
 -DCMAKE_INSTALL_BINDIR=llama_cpp/lib -DCMAKE_INSTALL_RPATH=\$ORIGIN -DCMAKE_BUILD_TYPE=Release"
CMAKE_ARGS=$(tr -d '\n' <<<"$CMAKE_ARGS")
export CXXFLAGS="${CXXFLAGS:-} -fno-tree-dse -fno-dse"
export CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-2}

# The root of a wheel is site-packages: headers and second copies of the libraries have no business there. A wheel has no
# symbolic links either, so each library is in it once by each of its names; nobody asks for the longest one.
"$python" -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python --wheel-dir "$folder" \
  --config-settings "wheel.exclude=lib/**;lib64/**;include/**;bin/**;llama_cpp/lib/*.so.*.*" "$requirement"
