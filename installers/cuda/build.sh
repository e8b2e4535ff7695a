#!/usr/bin/env bash
# Builds the llama-cpp-python wheel for machines with an NVIDIA card. The same wheel starts, on the CPU, where there is none.
#
#   installers/cuda/build.sh --arch "80;86;89;90" FOLDER      leaves llama_cpp_python-*+cu*.whl in FOLDER
#
#   --arch LIST     compute capabilities times ten (75 Turing, 80 A100, 86 RTX 30, 89 RTX 40, 90 H100, 120 RTX 50). Machine code for
#                   each, and for the last one PTX as well, which later cards translate for themselves; NN-real leaves that out
#   --wheel FILE    a wheel of bundle/build-llama.sh, to which the CUDA module is added; without it that is built first
#   --work FOLDER   where it compiles. Broken off, the same command with the same folder goes on where it was
#   --module-only   compile the CUDA module and stop
#
# Needs nvcc of CUDA 13 and the g++ that it takes (neither a card nor a driver), Python with pip, and network: CMake, cuBLAS and the CUDA
# runtime come from the package index. JOBS is the number of compilers at a time (2; each takes up to 3 GB), PYTHON another
# interpreter, NVCC another compiler. One architecture takes 45 minutes of one core, each further one about as long.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
nvcc=${NVCC:-nvcc}
architectures="" wheel="" work="" folder="" module_only=""

die() {
  echo "$1" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --arch) architectures=${2:?"--arch needs a list"}; shift 2 ;;
    --wheel) wheel=$(realpath -e "${2:?"--wheel needs a file"}"); shift 2 ;;
    --work) work=${2:?"--work needs a folder"}; shift 2 ;;
    --module-only) module_only=yes; shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) die "unknown option $1 (see --help)" ;;
    *) folder=$1; shift ;;
  esac
done
[ -n "$architectures" ] || die "--arch is missing, for instance --arch \"80;86;89;90\" (see --help)"
[[ $architectures =~ ^[0-9]+a?(-real|-virtual)?(\;[0-9]+a?(-real|-virtual)?)*$ ]] || die "--arch \"$architectures\": numbers with ; between them"
[ -n "$folder" ] || [ -n "$module_only" ] || die "usage: $0 --arch LIST FOLDER"

command -v "$nvcc" >/dev/null || die "no nvcc: install NVIDIA's CUDA 13 compiler, or name it by NVCC"
release=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\),.*/\1 \2/p')
read -r major minor <<<"$release"
[ "$major" = 13 ] || die "nvcc is of CUDA $major.$minor: this recipe is for CUDA 13, whose libraries share one folder in the package index"

# Only the last architecture keeps PTX: for every one it would double the size and the time.
IFS=';' read -ra list <<<"$architectures"
last=$((${#list[@]} - 1))
for index in "${!list[@]}"; do
  if [[ ${list[index]} != *-* && $index -lt $last ]]; then list[index]+=-real; fi
done
targets=$(IFS=';'; echo "${list[*]}")

if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work" ${folder:+"$folder"}
work=$(cd "$work" && pwd)

# cuBLAS of the compiler's own release: what is built with it runs with every later one of the same major version.
if [ ! -e "$work/tools/ready" ]; then
  "$python" -m venv "$work/tools"
  "$work/tools/bin/pip" install --quiet --no-cache-dir cmake ninja "nvidia-cublas==$major.$minor.*" "nvidia-cuda-runtime==$major.$minor.*"
  touch "$work/tools/ready"
fi
libraries=$("$work/tools/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/nvidia/cu$major

requirement=$("$python" "$here/../metadata.py" llama)
if [ ! -d "$work/source" ]; then
  rm -rf "$work/sdist"
  "$work/tools/bin/pip" download --quiet --no-deps --no-cache-dir --no-binary llama-cpp-python --dest "$work/sdist" "$requirement"
  mkdir "$work/unpacking"
  tar -xzf "$work"/sdist/*.tar.gz -C "$work/unpacking" --strip-components 1
  mv "$work/unpacking" "$work/source"
fi

# A module (BACKEND_DL) is opened at run time: where that fails, for want of a driver, the CPU's modules are still there. NO_VMM
# does without the driver's own library, which cannot be linked against where there is none. The headers of cuBLAS are in no
# folder where CMake looks.
export PATH="$work/tools/bin:$PATH"
cmake -S "$work/source/vendor/llama.cpp" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
  -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU=OFF -DGGML_CUDA=ON -DGGML_CUDA_NO_VMM=ON -DGGML_CUDA_NCCL=OFF \
  -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
  -DCMAKE_CUDA_COMPILER="$(command -v "$nvcc")" -DCMAKE_CUDA_ARCHITECTURES="$targets" \
  -DCUDA_cublas_LIBRARY="$libraries/lib/libcublas.so.$major" -DCUDA_cublasLt_LIBRARY="$libraries/lib/libcublasLt.so.$major" \
  -DCMAKE_C_FLAGS="-I$libraries/include" -DCMAKE_CXX_FLAGS="-I$libraries/include" -DCMAKE_CUDA_FLAGS="-I$libraries/include" \
  -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN;\$ORIGIN/../../nvidia/cu$major/lib"
cmake --build "$work/build" --target ggml-cuda --parallel "${JOBS:-2}"

module=$work/libggml-cuda.so
cp -L "$(find "$work/build" -name libggml-cuda.so)" "$module"
strip --strip-unneeded "$module"
du -h --apparent-size "$module"
[ -z "$module_only" ] || exit 0

if [ -z "$wheel" ]; then
  "$here/../bundle/build-llama.sh" "$work/portable"
  wheel=$(ls "$work"/portable/llama_cpp_python-*.whl)
fi
"$work/tools/bin/python" "$here/add_module.py" "$wheel" "$module" "cu$major$minor" "$folder"
