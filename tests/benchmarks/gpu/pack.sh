#!/usr/bin/env bash
# Packs into .gpu/ what the machine with the card lacks: it has no network, and the files for it may have 60 MiB in all.
#
#   tests/benchmarks/gpu/pack.sh LLAMA_WHEEL [MINILM_CHECKPOINT]
#
# LLAMA_WHEEL is of installers/cuda/build.sh, for the card's architecture alone (--arch 90-real on an H200). Of the checkpoint only
# the tokenizer is taken; without it MiniLM is left out. PYTHON names another interpreter, TARGET the other machine's Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
wheel=$(realpath -e "${1:?"usage: $0 LLAMA_WHEEL [MINILM_CHECKPOINT]"}")
minilm=${2:-}
python=${PYTHON:-python3}
target=${TARGET:-3.12}

rm -rf .gpu
mkdir -p .gpu/wheels .gpu/minilm/1_Pooling
cp "$wheel" .gpu/wheels/
# What the other machine does not have; setup.sh checks.
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$target" --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest .gpu/wheels \
  "setuptools>=77" "diskcache>=5.6.3" "gguf>=0.17,<0.20" "msgspec>=0.20,<0.23" "orjson>=3.10,<4" "platformdirs>=4.2,<5" "tomlkit>=0.13,<1"
# The vocabulary of all Qwen models: setup.sh makes a checkpoint of random weights with it.
"$python" -m pip download --quiet --no-deps --dest .gpu dashscope
"$python" -m zipfile -e .gpu/dashscope-*.whl .gpu/dashscope
mv .gpu/dashscope/dashscope/resources/qwen.tiktoken .gpu/
rm -rf .gpu/dashscope .gpu/dashscope-*.whl
if [ -n "$minilm" ]; then
  cp "$minilm"/{config,modules,tokenizer,tokenizer_config}.json .gpu/minilm/
  cp "$minilm"/1_Pooling/config.json .gpu/minilm/1_Pooling/
else
  rm -rf .gpu/minilm
fi
du -ch .gpu/wheels/* .gpu/qwen.tiktoken | sed 's/\.gpu\///'
[ "$(du -sm .gpu | cut -f1)" -le 60 ] || { echo ".gpu is too large to be carried" >&2; exit 1; }
git check-ignore -q .gpu/wheels || echo "now: echo /.gpu/ >> .git/info/exclude"
