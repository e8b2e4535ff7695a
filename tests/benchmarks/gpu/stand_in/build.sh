#!/bin/sh
# Builds a stand-in for a graphics card out of ggml's RPC backend: a device of type GPU that lives in a separate process.
#
#   build.sh LLAMA_CPP_SOURCE LIBRARIES OUT
#
# LLAMA_CPP_SOURCE: vendor/llama.cpp of the very llama-cpp-python that is installed. LIBRARIES: llama_cpp/lib of a build with
# dynamic backends (installers/bundle). OUT gets a copy of them with the module beside, and the server. Then:
#
#   OUT/server 127.0.0.1:51515 OUT/lib/libggml-cpu-haswell.so &
#   STAND_IN=127.0.0.1:51515 LLAMA_CPP_LIB_PATH=OUT/lib edgeembed serve --model MODEL --no-cache
#
# and under load: `kill -9` of the server is a lost device, `kill -STOP` a hang, `prlimit --as=700000000 OUT/server …` a card
# without memory. A started server after its end is a card that is back.
set -eu
[ $# -eq 3 ] || { sed -n 2,13p "$0"; exit 2; }
source=$1/ggml libraries=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
cp -R "$libraries" "$out/lib"
flags="-I$source/include -I$source/src -std=c++17 -O1 -fPIC -DGGML_SHARED -DGGML_BACKEND_SHARED"
for part in "$source/src/ggml-rpc/ggml-rpc.cpp" "$source/src/ggml-rpc/transport.cpp" "$here/card.cpp" "$here/server.cpp"; do
  # shellcheck disable=SC2086
  c++ $flags -c "$part" -o "$out/$(basename "$part" .cpp).o"
done
link="-L$out/lib -l:libggml.so.0 -l:libggml-base.so.0"
# Its name is what makes edgeembed load it; the device's own name is RPC0.
# shellcheck disable=SC2086
c++ -shared "$out/card.o" "$out/ggml-rpc.o" "$out/transport.o" -o "$out/lib/libggml-cuda.so" $link "-Wl,-rpath,\$ORIGIN"
# shellcheck disable=SC2086
c++ "$out/server.o" "$out/ggml-rpc.o" "$out/transport.o" -o "$out/server" $link "-Wl,-rpath,\$ORIGIN/lib" -pthread
rm -f "$out"/*.o
