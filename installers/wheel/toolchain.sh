#!/usr/bin/env bash
# Prepares a compiler whose results run with older releases of glibc: toolchain.sh ARCH FOLDER
#
# ARCH is x86_64 or aarch64. Writes FOLDER/toolchain.cmake for CMake, and FOLDER/cxx and FOLDER/cc, which compile in the same way.
# The compilers are this machine's; glibc and OpenMP are those of an older Debian (SUITE, bullseye), unpacked to FOLDER/sysroot. With
# that, and older_glibc.h, the results need glibc 2.25 or later. libstdc++ is linked in: an older system's is too old for them.
#
# Needs Debian with g++ and mmdebstrap; for the other architecture g++-aarch64-linux-gnu or g++-x86-64-linux-gnu.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -ne 2 ]; then
  echo "usage: $0 x86_64|aarch64 FOLDER" >&2
  exit 2
fi
arch=$1
case $arch in
  x86_64) debian=amd64 ;;
  aarch64) debian=arm64 ;;
  *) echo "unknown architecture $arch; expected x86_64 or aarch64" >&2; exit 2 ;;
esac
mkdir -p "$2"
folder=$(cd "$2" && pwd)
triple=$arch-linux-gnu
sysroot=$folder/sysroot
for program in mmdebstrap "$triple-g++"; do
  command -v "$program" >/dev/null || { echo "$program not found; see the head of $0" >&2; exit 1; }
done

# No script of a package runs: nothing of the other system is executed.
if [ ! -e "$sysroot/ready" ]; then
  rm -rf "$sysroot"
  mirror=$(apt-get indextargets --format "\$(REPO_URI)" 'Created-By: Packages' 'Component: main' | grep -v security | head -n 1)
  mmdebstrap --quiet --variant=extract --architectures="$debian" --include=libc6-dev,libgomp1 "${SUITE:-bullseye}" "$sysroot" \
    "deb $mirror ${SUITE:-bullseye} main"
  # Absolute links would lead to this machine's libraries.
  while IFS= read -r -d '' link; do
    target=$(readlink "$link")
    [[ $target != /* ]] || ln -sfn "$(realpath -ms --relative-to="$(dirname "$link")" "$sysroot$target")" "$link"
  done < <(find "$sysroot/usr/lib/$triple" "$sysroot"/lib*/ -maxdepth 1 -type l -print0)
  # Without a version, as the linker looks for it; the compiler's own needs a newer glibc.
  ln -s libgomp.so.1 "$sysroot/usr/lib/$triple/libgomp.so"
  touch "$sysroot/ready"
fi

# Where this compiler has the headers of its own libstdc++, which belong to none of the sysroot's.
mapfile -t headers < <("$triple-g++" -E -v -x c++ /dev/null 2>&1 | sed -n '/^#include </,/^End/s/^ \(.*c++.*\)/\1/p' | xargs -d '\n' realpath -m)
includes="-nostdinc++"
for header in "${headers[@]}"; do includes+=" -isystem $header"; done
# Files that have not changed keep their times: the next build compiles nothing again.
keep() { cmp -s "$1" "$2" || cp "$1" "$2"; }
keep "$here/older_glibc.h" "$folder/older_glibc.h"
flags="--sysroot=$sysroot -B$sysroot/usr/lib/$triple -include $folder/older_glibc.h"
links="-L$sysroot/usr/lib/$triple -L$sysroot/lib/$triple -static-libstdc++ -Wl,--exclude-libs,ALL"
"$triple-gcc" -O2 -fPIC "--sysroot=$sysroot" -c "$here/older_glibc.c" -o "$folder/made.o"
keep "$folder/made.o" "$folder/older_glibc.o"

cat >"$folder/made.cmake" <<CMAKE
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $arch)
set(CMAKE_C_COMPILER $triple-gcc)
set(CMAKE_CXX_COMPILER $triple-g++)
set(CMAKE_C_FLAGS_INIT "$flags")
set(CMAKE_CXX_FLAGS_INIT "$flags $includes")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "$links")
set(CMAKE_MODULE_LINKER_FLAGS_INIT "$links")
set(CMAKE_EXE_LINKER_FLAGS_INIT "$links")
set(CMAKE_CXX_STANDARD_LIBRARIES "$folder/older_glibc.o")
CMAKE
keep "$folder/made.cmake" "$folder/toolchain.cmake"
printf '#!/bin/sh\nexec %s-g++ %s %s "$@" %s %s\n' "$triple" "$flags" "$includes" "$links" "$folder/older_glibc.o" >"$folder/cxx"
chmod 755 "$folder/cxx"
