#!/usr/bin/env bash
# Tests the Windows setup under Wine, with stand-ins for the programs in it: its script compiles; an upgrade stops the daemon and the
# icon before it replaces files, and starts again what ran; removing it stops the daemon and removes the start at login.
#
#   sudo installers/windows/check.sh FOLDER
#
# FOLDER keeps a 32-bit Debian with Wine (900 MB) for later runs. Needs: apt install mmdebstrap gcc-mingw-w64-i686-win32 xvfb npm python3.
# Inno Setup's compiler comes from the npm package `innosetup`. Wine has neither 64-bit programs here nor the folder {autopf}, so a copy
# of the script is compiled without these.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:?"usage: $0 FOLDER"}"
folder=$(cd "$1" && pwd)
system=$folder/system shared=$folder/system/check
fail() { echo "FAILED: $*" >&2; exit 1; }

if [[ ${INSIDE:-} != yes ]]; then
  if [[ ! -e $folder/ready ]]; then
    rm -rf --one-file-system "$system"
    read -r mirror < <(apt-get indextargets --format "\$(REPO_URI)" 'Created-By: Packages' 'Component: main' | grep -v security | head -n 1)
    mmdebstrap --quiet --variant=apt --arch=i386 --include=wine32,wine bookworm "$system" "deb $mirror bookworm main"
    npm install --silent --prefix "$folder/npm" innosetup
    touch "$folder/ready"
  fi
  rm -rf "$shared"
  mkdir -p "$shared/tree/installers/windows"
  cp -r "$folder/npm/node_modules/innosetup/bin" "$shared/inno"
  cp "$here/../../LICENSE" "$shared/tree/"
  sed '/^Architectures/d; s/{autopf}/{localappdata}\\Programs/' "$here/edgeembed.iss" >"$shared/tree/installers/windows/test.iss"
  # An icon of one pixel, as in the format's description: header, entry, bitmap header, colour, mask.
  printf '%b' '\0\0\01\0\01\0\01\01\0\0\01\0\040\0\060\0\0\0\026\0\0\0\050\0\0\0\01\0\0\0\02\0\0\0\01\0\040\0\0\0\0\0\010\0\0\0' \
    '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0377\0\0\0\0' >"$shared/icon.ico"
  cat >"$shared/stand-in.c" <<'C'
#include <stdio.h>
#include <string.h>
#include <windows.h>
/* Notes how it was called. `serve` and `tray` stay, as the daemon and the icon do. */
int main(int argc, char **argv) {
  FILE *calls = fopen("C:\\calls.txt", "ab");
  char *name = strrchr(argv[0], '\\');
  fprintf(calls, "%s %s", VERSION, name ? name + 1 : argv[0]);
  for (int i = 1; i < argc; i++) fprintf(calls, " %s", argv[i]);
  fprintf(calls, "\n");
  fclose(calls);
  if (argc > 1 && (!strcmp(argv[1], "serve") || !strcmp(argv[1], "tray"))) Sleep(300000);
  return 0;
}
C
  for version in 1 2; do
    mkdir -p "$shared/v$version/_internal"
    i686-w64-mingw32-gcc-win32 -O1 -s "-DVERSION=\"v$version\"" "$shared/stand-in.c" -o "$shared/v$version/edgeembed.exe"
    cp "$shared/v$version/edgeembed.exe" "$shared/v$version/edgeembedw.exe"
    touch "$shared/v$version/_internal/of-v$version"
  done
  display=$(mktemp)
  Xvfb -displayfd 3 -listen tcp -ac 3>"$display" 2>/dev/null &
  trap 'kill %1; rm -f "$display"' EXIT
  until [[ -s $display ]]; do sleep 0.1; done
  DISPLAY=127.0.0.1:$(<"$display") INSIDE=yes unshare --mount --pid --fork "$0" "$folder"
  exit
fi

mount -t proc proc "$system/proc"
inside() { chroot "$system" env -i PATH=/usr/bin:/bin HOME=/check WINEPREFIX=/check/wine WINEDEBUG=-all "DISPLAY=$DISPLAY" timeout 120 "$@"; }
drive=$system/check/wine/drive_c
program=$drive/users/$(id -un)/AppData/Local/Programs/edgeembed
inside wine wineboot --init >/dev/null 2>&1
for version in 1 2; do
  inside wine /check/inno/ISCC.exe /Q "/DVersion=$version.0" "/DBundle=Z:\\check\\v$version" '/DIcon=Z:\check\icon.ico' '/OZ:\check' \
    'Z:\check\tree\installers\windows\test.iss' || fail "the script does not compile"
done
echo "== the script compiles"

setup() { inside wine "/check/edgeembed-$1.0-windows-x64.exe" /VERYSILENT /SUPPRESSMSGBOXES /CURRENTUSER /NORESTART "/LOG=Z:\\check\\log$1.txt"; }
start() { # PROGRAM COMMAND: start it, and wait until it has noted that
  inside wine "${program#"$system"}/$1.exe" "$2" &
  for _ in {1..50}; do ! grep -q "$1.exe $2" "$drive/calls.txt" 2>/dev/null || return 0; sleep 0.2; done
  fail "$1.exe $2 did not start"
}
expect() { # CALL...: wait until these were the calls
  for _ in {1..50}; do
    [[ $(sort "$drive/calls.txt") != "$(printf '%s\n' "$@" | sort)" ]] || return 0
    sleep 0.2
  done
  cat "$drive/calls.txt"
  fail "expected these calls: $*"
}

setup 1 || fail "it does not install"
start edgeembed serve
start edgeembedw tray
setup 2 || fail "it does not upgrade what runs: $(tail -n 20 "$shared/log2.txt")"
[[ -e $program/_internal/of-v2 && ! -e $program/_internal/of-v1 ]] || fail "the files are not those of the new version"
expect 'v1 edgeembed.exe serve' 'v1 edgeembedw.exe tray' 'v1 edgeembed.exe status' 'v1 edgeembed.exe stop' 'v2 edgeembedw.exe tray'
echo "== an upgrade stops daemon and icon, and starts the icon again"

inside wine taskkill /F /IM edgeembedw.exe >/dev/null
rm "$drive/calls.txt"
start edgeembed serve
setup 2 || fail "it does not upgrade a daemon without an icon"
expect 'v2 edgeembed.exe serve' 'v2 edgeembed.exe status' 'v2 edgeembed.exe stop' 'v2 edgeembed.exe start'
echo "== a daemon without an icon is started again"

rm "$drive/calls.txt"
start edgeembed serve
inside wine "${program#"$system"}/unins000.exe" /VERYSILENT /SUPPRESSMSGBOXES || fail "it cannot be removed"
expect 'v2 edgeembed.exe serve' 'v2 edgeembed.exe status' 'v2 edgeembed.exe stop' 'v2 edgeembed.exe autostart disable --forget'
for _ in {1..50}; do [[ -e $program ]] || break; sleep 0.2; done
[[ ! -e $program ]] || fail "files are left in $program"
echo "== removing it stops the daemon and the start at login, and leaves no file"
