#!/usr/bin/env bash
# Builds the self-contained tarball: a Python, every package and a llama.cpp for all processors, in one folder.
#
#   installers/bundle/build.sh FOLDER [WHEEL]
#
# FOLDER receives edgeembed-VERSION-linux-ARCH.tar.xz. PYTHON names the interpreter to bundle (3.11 or later, with its dynamic
# libraries), WHEEL is the result of installers/wheel/build.sh; by default that script runs first. Needs: apt install patchelf
# xz-utils, and what that script needs. The tarball needs a glibc at least as new as here, because of its Python, so build on the
# oldest system to support.
set -euo pipefail

installers=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source_tree=$(dirname "$installers")
folder=${1:?"usage: $0 FOLDER [WHEEL]"}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python3}
wheel=${2:-}
if [[ -z $wheel ]]; then
  wheel=$(PYTHON=$python "$installers/wheel/build.sh" "$folder/wheels" | tail -n 1)
fi

name=edgeembed-$("$python" "$installers/metadata.py" version)-linux-$(uname -m)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/$name
home=$bundle/python
umask 022

# The environment of this machine must not affect the result.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1
base=$("$python" -c 'import sys; print(sys._base_executable)')
"$base" "$installers/bundle/relocate.py" copy "$home"
library=$("$base" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
inside=("env" "LD_LIBRARY_PATH=$library" "$home/bin/python3")
"${inside[@]}" -m ensurepip >/dev/null
"${inside[@]}" -m pip install --quiet --no-compile "$(realpath "$wheel")[bulk,documents,sqlite,tray]"

share=$bundle/share
"${inside[@]}" "$installers/manpages.py" "$share/man/man1"
"${inside[@]}" "$installers/icons/draw.py" "$share/icons"
install -Dm644 "$installers/edgeembed.desktop" "$share/applications/edgeembed.desktop"
mkdir -p "$share/completions"
for shell in bash zsh fish; do
  "${inside[@]}" -m edgeembed completion $shell >"$share/completions/edgeembed.$shell"
done

find "$home/bin" -mindepth 1 ! -name python3 -delete
find "$home" -name direct_url.json -delete # it contains the path of the sources on this machine
rm -rf "$home"/lib/python3*/ensurepip
find "$home" -name __pycache__ -prune -exec rm -rf {} +
find "$home" \( -name '*.h' -o -name '*.a' -o -name '*.pyx' \) -type f -delete
# Only Python's own files: libraries in wheels were changed after linking, and strip damages such files.
find "$home/bin" "$home"/lib/python3*/lib-dynload -type f -exec strip --strip-unneeded {} +
# With this machine's library path: afterwards the files find libraries only in the bundle.
LD_LIBRARY_PATH=$library "$base" "$installers/bundle/relocate.py" link "$home"
# Validated by hash, not by time: unpacking may change times.
"$home/bin/python3" -m compileall -q -j 2 --invalidation-mode unchecked-hash -s "$bundle" "$home/lib"

install -m755 "$installers/bundle/launcher" "$bundle/edgeembed"
install -m644 "$installers/bundle/start.py" "$home/start.py"
printf '%s\n' 'the tarball' ${RELEASE_PAGE:+"releases=$RELEASE_PAGE"} >"$home/edgeembed-package" # common/installation.py reads it
install -m755 "$installers/install.sh" "$bundle/install.sh"
install -m644 "$source_tree/LICENSE" "$source_tree/README.md" "$bundle"
install -Dm644 -t "$bundle/docs" "$source_tree"/docs/*.md

tarball=$folder/$name.tar.xz
tar -C "$work" --owner=0 --group=0 --numeric-owner -c "$name" | xz "-${COMPRESSION:-6}" -T2 >"$tarball"
echo "$tarball"
