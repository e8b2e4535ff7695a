#!/usr/bin/env bash
# Builds the release wheel for machines with an NVIDIA GPU. Without a GPU, the same wheel uses the CPU.
#
#   installers/cuda/build.sh --arch "80;86;89;90" FOLDER      writes edgeembed-VERSION+cu*.whl to FOLDER
#
#   --arch LIST     compute capabilities times ten (75 Turing, 80 A100, 86 RTX 30, 89 RTX 40, 90 H100, 120 RTX 50). Machine code for
#                   each; for the last one also PTX, which later GPUs compile when they load it, unless written as NN-real
#   --wheel FILE    a wheel of wheel/build.sh to add the CUDA module to; by default it is built first
#   --work FOLDER   build folder; an interrupted build resumes with the same command and folder
#   --module-only   compile the CUDA module and stop
#
# Needs nvcc of CUDA 13 and a g++ that it supports (but no GPU and no driver), Python with pip, and network access: CMake, cuBLAS and
# the CUDA runtime are downloaded from the package index. JOBS is the number of concurrent compilers (2; each needs up to 3 GB), PYTHON
# sets the interpreter, NVCC the compiler. Each architecture takes about 45 minutes on one core.
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
[ -n "$architectures" ] || die "--arch is required, for example --arch \"80;86;89;90\" (see --help)"
[[ $architectures =~ ^[0-9]+a?(-real|-virtual)?(\;[0-9]+a?(-real|-virtual)?)*$ ]] || die "--arch \"$architectures\": expected numbers separated by ;"
[ -n "$folder" ] || [ -n "$module_only" ] || die "usage: $0 --arch LIST FOLDER"

command -v "$nvcc" >/dev/null || die "nvcc not found: install NVIDIA's CUDA 13 compiler, or set NVCC"
release=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\),.*/\1 \2/p')
read -r major minor <<<"$release"
[ "$major" = 13 ] || die "nvcc has version $major.$minor; this script needs CUDA 13, whose libraries share a folder in the package index"

# PTX only for the last architecture: for all of them it would double size and time.
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

# cuBLAS of the compiler's release: the result works with all later ones of the same major version.
if [ ! -e "$work/tools/ready" ]; then
  "$python" -m venv "$work/tools"
  "$work/tools/bin/pip" install --quiet --no-cache-dir cmake ninja "nvidia-cublas==$major.$minor.*" "nvidia-cuda-runtime==$major.$minor.*"
  touch "$work/tools/ready"
fi
libraries=$("$work/tools/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/nvidia/cu$major

requirement=$("$python" "$here/../metadata.py" llama)
"$here/../llama_source.sh" "$work/tools/bin/pip" "$requirement" "$work"

# A module (BACKEND_DL) is loaded at run time: if that fails, such as without a driver, the CPU modules are still used. NO_VMM
# avoids the driver's library, which is not available for linking without a driver. CMake does not find the headers of cuBLAS.
export PATH="$work/tools/bin:$PATH"
cmake -S "$work/source/vendor/llama.cpp" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
  -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU=OFF -DGGML_CUDA=ON -DGGML_CUDA_NO_VMM=ON -DGGML_CUDA_NCCL=OFF \
  -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
  -DCMAKE_CUDA_COMPILER="$(command -v "$nvcc")" -DCMAKE_CUDA_ARCHITECTURES="$targets" \
  -DCUDA_cublas_LIBRARY="$libraries/lib/libcublas.so.$major" -DCUDA_cublasLt_LIBRARY="$libraries/lib/libcublasLt.so.$major" \
  -DCMAKE_C_FLAGS="-I$libraries/include" -DCMAKE_CXX_FLAGS="-I$libraries/include" -DCMAKE_CUDA_FLAGS="-I$libraries/include" \
  -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN;\$ORIGIN/../../../../../nvidia/cu$major/lib;\$ORIGIN/../../nvidia/cu$major/lib"
cmake --build "$work/build" --target ggml-cuda --parallel "${JOBS:-2}"

module=$work/libggml-cuda.so
cp -L "$(find "$work/build" -name libggml-cuda.so)" "$module"
strip --strip-unneeded "$module"
du -h --apparent-size "$module"
[ -z "$module_only" ] || exit 0

if [ -z "$wheel" ]; then
  wheel=$("$here/../wheel/build.sh" --work "$work/portable" "$work/wheels" | tail -n 1)
fi
"$work/tools/bin/python" "$here/../wheel/add_module.py" "$wheel" "$module" "cu$major$minor" "$folder"
