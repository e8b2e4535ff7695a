#!/usr/bin/env bash
# Sets up a bare machine with a card from .gpu/ (see pack.sh), without network: packages, and models of random weights.
#
#   . tests/benchmarks/gpu/setup.sh FOLDER        sourced: it sets PYTHONPATH
#
# Makes FOLDER/site and FOLDER/{qwen3,minilm}/{checkpoint,F16.gguf,Q8_0.gguf}; what exists is kept. Two minutes on 16 cores.
set -euo pipefail
folder=${1:?"usage: . $0 FOLDER"}
mkdir -p "$folder"
[ -d .gpu/wheels ] || { echo "no .gpu/ here: run pack.sh, and copy .gpu/ along" >&2; exit 1; }

if [ ! -e "$folder/site/ready" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$folder/site" .gpu/wheels/*.whl
  # edgeembed has kernels of its own, which are compiled for the Python there.
  PYTHONPATH=$folder/site python3 -m pip install -q --no-index --no-deps --no-compile --no-build-isolation --target "$folder/site" .
  # The CUDA module looks for NVIDIA's libraries beside its own package; here they came with torch.
  libraries=$(python3 -c 'import nvidia; print(next(iter(nvidia.__path__)))' || true)
  if [ -n "$libraries" ] && [ ! -e "$folder/site/nvidia" ]; then ln -s "$libraries" "$folder/site/nvidia"; fi
  touch "$folder/site/ready"
fi
# What is installed goes before the tree, which has no compiled kernels.
export PYTHONSAFEPATH=1 PYTHONPATH=$folder/site:$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python3 -m tests.benchmarks.gpu.missing

model() {
  for type in F16 Q8_0; do
    [ -e "$folder/$1/$type.gguf" ] || python3 -m edgeembed convert "$folder/$1/checkpoint" --type "$type" -o "$folder/$1/$type.gguf" >/dev/null
  done
}
mkdir -p "$folder/qwen3" "$folder/minilm"
[ -e "$folder/qwen3/checkpoint/model.safetensors" ] || python3 tests/reference/make_qwen3_checkpoint.py "$folder/qwen3/checkpoint" --ranks .gpu/qwen.tiktoken
model qwen3
if [ -d .gpu/minilm ]; then
  [ -e "$folder/minilm/checkpoint/model.safetensors" ] || python3 -m tests.benchmarks.gpu.minilm_shape .gpu/minilm "$folder/minilm/checkpoint"
  model minilm
fi
