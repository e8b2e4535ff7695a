#!/bin/sh
# Unpack the source of the llama.cpp that is built: llama_source.sh PIP REQUIREMENT WORK
#
# Downloads the source archive of llama-cpp-python and unpacks it to WORK/source, unless that is there. An interrupted download
# or unpacking begins anew.
set -eu
pip=$1 requirement=$2 work=$3
if [ ! -d "$work/source" ]; then
  rm -rf "$work/sdist" "$work/unpacking"
  "$pip" download --quiet --no-deps --no-cache-dir --no-binary llama-cpp-python --dest "$work/sdist" "$requirement"
  mkdir "$work/unpacking"
  tar -xzf "$work"/sdist/*.tar.gz -C "$work/unpacking" --strip-components 1
  mv "$work/unpacking" "$work/source"
fi
