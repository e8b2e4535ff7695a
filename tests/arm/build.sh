#!/usr/bin/env bash
# Builds what tests/arm/check.py runs under QEMU: the release wheel for 64-bit Arm, and a Debian for Arm with it.
#
#   tests/arm/build.sh FOLDER [WHEEL]
#
# WHEEL is the result of `installers/wheel/build.sh --arch aarch64`; by default that script runs first. An interrupted build resumes
# with the same command and folder. Needs Debian with
#   apt-get install g++-aarch64-linux-gnu qemu-user-static mmdebstrap
# Python with pip, and network access. JOBS is the number of concurrent compilers (2), PYTHON the interpreter that runs pip, RELEASE
# the release of Debian (bookworm). Half an hour on two busy cores, 1 GB.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
if [ $# -lt 1 ] || [[ $1 == -* ]]; then
  echo "usage: $0 FOLDER [WHEEL]" >&2
  exit 2
fi
mkdir -p "$1"
work=$(cd "$1" && pwd)
wheel=${2:-}
for program in qemu-aarch64-static mmdebstrap; do
  command -v "$program" >/dev/null || { echo "$program not found; see the head of $0" >&2; exit 1; }
done

# No script of a package runs, so that the kernel needs no support for foreign programs. numpy needs libstdc++.
if [ ! -e "$work/sysroot/ready" ]; then
  rm -rf "$work/sysroot"
  mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3,libstdc++6 "${RELEASE:-bookworm}" "$work/sysroot"
  touch "$work/sysroot/ready"
fi
interpreter=$(find "$work"/sysroot/usr/bin -name 'python3.*' -type f | head -n 1)

if [ -z "$wheel" ]; then
  wheel=$(PYTHON=$python "$here/../../installers/wheel/build.sh" --arch aarch64 --work "$work/wheel" "$work/dist" | tail -n 1)
fi
# As pip would choose on such a machine with glibc 2.28.
platforms=()
for glibc in $(seq 28 -1 17); do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
rm -rf "$work/packages"
"$python" -m pip install --quiet --target "$work/packages" --implementation cp --python-version "${interpreter##*python}" \
  --only-binary=:all: "${platforms[@]}" --platform manylinux2014_aarch64 "$wheel"
echo "built; next: python -m tests.arm.check $work MODEL.gguf"
