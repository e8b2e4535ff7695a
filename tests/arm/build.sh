#!/usr/bin/env bash
# Builds what tests/arm/check.py runs under QEMU: llama.cpp for 64-bit Arm with a module for each generation of processors, and
# a Debian with Python and the packages that the engine needs.
#
#   tests/arm/build.sh FOLDER
#
# An interrupted build resumes with the same command and folder. Needs Debian with
#   apt-get install g++-aarch64-linux-gnu qemu-user-static mmdebstrap
# Python with pip, and network access. JOBS is the number of concurrent compilers (2), PYTHON the interpreter that runs pip, RELEASE
# the release of Debian (bookworm). Half an hour on two busy cores, 1 GB.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
if [ $# -ne 1 ] || [[ $1 == -* ]]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
work=$(cd "$1" && pwd)
for program in aarch64-linux-gnu-g++ qemu-aarch64-static mmdebstrap; do
  command -v "$program" >/dev/null || { echo "$program not found; see the head of $0" >&2; exit 1; }
done

# No script of a package runs, so that the kernel needs no support for foreign programs.
if [ ! -e "$work/sysroot/ready" ]; then
  rm -rf "$work/sysroot"
  mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3,libgomp1,libstdc++6 "${RELEASE:-bookworm}" "$work/sysroot"
  touch "$work/sysroot/ready"
fi
interpreter=$(find "$work"/sysroot/usr/bin -name 'python3.*' -type f | head -n 1)
version=${interpreter##*python}

if [ ! -e "$work/tools/ready" ]; then
  "$python" -m venv "$work/tools"
  "$work/tools/bin/pip" install --quiet cmake ninja
  touch "$work/tools/ready"
fi
requirement=$("$python" "$here/../../installers/metadata.py" llama)
"$here/../../installers/llama_source.sh" "$work/tools/bin/pip" "$requirement" "$work"
# The modules for Armv9.2 need a compiler that has SME: GCC 14.
if ! echo | aarch64-linux-gnu-g++ -march=armv9.2-a+sme -x c++ -c -o /dev/null - 2>/dev/null; then
  sed -i '/ggml_add_cpu_backend_variant(armv9\.2/d' "$work/source/vendor/llama.cpp/ggml/src/CMakeLists.txt"
fi

export PATH="$work/tools/bin:$PATH"
cmake -S "$work/source/vendor/llama.cpp" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DGGML_NATIVE=OFF \
  -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF
cmake --build "$work/build" --target llama --parallel "${JOBS:-2}"

# The packages that the engine imports, and llama-cpp-python: its Python files, with the libraries from above.
if [ ! -e "$work/packages/ready" ]; then
  rm -rf "$work/packages"
  "$work/tools/bin/pip" install --quiet --target "$work/packages" --implementation cp --python-version "$version" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    "numpy>=1.26,<3" "msgspec>=0.20,<0.23" diskcache jinja2 typing_extensions psutil filelock platformdirs
  touch "$work/packages/ready"
fi
rm -rf "$work/packages/llama_cpp" "$work"/packages/llama_cpp_python-*
cp -r "$work/source/llama_cpp" "$work/packages/llama_cpp"
mkdir -p "$work/packages/llama_cpp/lib" "$work/packages/llama_cpp_python-${requirement##*==}.dist-info"
cp "$work/source/PKG-INFO" "$work/packages/llama_cpp_python-${requirement##*==}.dist-info/METADATA"
cp -L "$work"/build/bin/*.so* "$work/packages/llama_cpp/lib"
echo "built; next: python -m tests.arm.check $work MODEL.gguf"
