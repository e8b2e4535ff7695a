#!/bin/sh
# Installs or uninstalls the unpacked edgeembed tarball for one user; see `install.sh --help`.
set -eu

usage() {
  cat <<'HELP'
usage: ./install.sh [--prefix FOLDER] [--dry-run]
       ./install.sh --uninstall [--purge] [--prefix FOLDER] [--dry-run]

Installs edgeembed from the folder of this script. Downloads, starts and enables nothing, and needs no administrator
rights.

  --prefix FOLDER   where to install (default: ~/.local); the program is then FOLDER/bin/edgeembed
  --dry-run         print what would be done, without doing it
  --uninstall       remove the program; models, cache and settings are kept, and their folders are printed
  --purge           with --uninstall: remove models, cache and settings too
  --help            show this text

What goes where:
  FOLDER/lib/edgeembed                    the program with its own Python
  FOLDER/bin/edgeembed                    a small script that starts it
  FOLDER/share/man/man1/edgeembed*        manual pages
  FOLDER/share/{bash-completion,zsh,fish} completions
  FOLDER/share/{applications,icons}       menu entry and icon

Start at login is a separate decision: edgeembed autostart enable
HELP
}

prefix=${HOME:?}/.local
task=install
purge=no
dry=no
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:?--prefix requires a folder}; shift ;;
    --prefix=*) prefix=${1#*=} ;;
    --dry-run) dry=yes ;;
    --uninstall) task=uninstall ;;
    --purge) purge=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; echo "install.sh: unknown argument: $1" >&2; exit 2 ;;
  esac
  shift
done
case $prefix in
  /*) ;;
  *) prefix=$(pwd)/$prefix ;;
esac

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
library=$prefix/lib/edgeembed
program=$prefix/bin/edgeembed
share=$prefix/share

run() {
  if [ "$dry" = yes ]; then
    echo "would run: $*"
  else
    "$@"
  fi
}

write() { # FILE: standard input becomes its content
  if [ "$dry" = yes ]; then
    cat >/dev/null
    echo "would write: $1"
  else
    mkdir -p "${1%/*}"
    cat >"$1"
  fi
}

# Only files written by this script: an `edgeembed` from elsewhere, such as pip, is not touched.
is_ours() { [ -f "$1" ] && grep -q '^# written by install.sh of edgeembed' "$1"; }

files() { # files installed outside FOLDER/lib, one per line
  echo "$share/bash-completion/completions/edgeembed"
  echo "$share/zsh/site-functions/_edgeembed"
  echo "$share/fish/vendor_completions.d/edgeembed.fish"
  echo "$share/applications/edgeembed.desktop"
  echo "$share/icons/hicolor/scalable/apps/edgeembed.svg"
  echo "$share/icons/hicolor/48x48/apps/edgeembed.png"
}

install_all() {
  if [ ! -x "$here/python/bin/python3" ]; then
    echo "install.sh: $here does not contain edgeembed; run the install.sh of an unpacked tarball" >&2
    exit 1
  fi
  if [ -e "$program" ] && ! is_ours "$program"; then
    echo "install.sh: $program belongs to another installation; remove that first, or use another --prefix" >&2
    exit 1
  fi
  if [ "$here" = "$library" ]; then
    echo "install.sh: this is the installed copy; unpack a newer tarball to upgrade" >&2
    exit 1
  fi
  # The new version is complete before the old one is removed: an interrupted upgrade leaves a working program.
  run mkdir -p "$prefix/lib" "$prefix/bin"
  run rm -rf "$library.new" "$library.old"
  run cp -R "$here" "$library.new"
  if [ -e "$library" ]; then
    run mv "$library" "$library.old"
  fi
  run mv "$library.new" "$library"
  run rm -rf "$library.old"
  quoted=$(printf '%s' "$library" | sed "s/'/'\\\\''/g")
  printf '#!/bin/sh\n# written by install.sh of edgeembed\nexec '\''%s/edgeembed'\'' "$@"\n' "$quoted" | write "$program"
  run chmod 755 "$program"

  from=$here/share
  write "$share/bash-completion/completions/edgeembed" <"$from/completions/edgeembed.bash"
  write "$share/zsh/site-functions/_edgeembed" <"$from/completions/edgeembed.zsh"
  write "$share/fish/vendor_completions.d/edgeembed.fish" <"$from/completions/edgeembed.fish"
  sed "s|^Exec=edgeembed|Exec=\"$program\"|" "$from/applications/edgeembed.desktop" | write "$share/applications/edgeembed.desktop"
  write "$share/icons/hicolor/scalable/apps/edgeembed.svg" <"$from/icons/edgeembed.svg"
  write "$share/icons/hicolor/48x48/apps/edgeembed.png" <"$from/icons/edgeembed-48.png"
  for page in "$from"/man/man1/*; do
    write "$share/man/man1/${page##*/}" <"$page"
  done

  [ "$dry" = yes ] || echo "edgeembed is installed: $program"
  case :${PATH:-}: in
    *:"$prefix/bin":*) ;;
    *) echo "$prefix/bin is not in PATH: add it to your shell's configuration, or run $program" ;;
  esac
  echo "Next: edgeembed start"
  echo "At login: edgeembed autostart enable"
}

# The folders of the program's data, as in edgeembed/config/paths.py.
data_folders() {
  if [ -n "${EDGEEMBED_HOME:-}" ]; then
    echo "$EDGEEMBED_HOME"
    return
  fi
  echo "${XDG_DATA_HOME:-$HOME/.local/share}/edgeembed"
  echo "${XDG_CACHE_HOME:-$HOME/.cache}/edgeembed"
  echo "${XDG_CONFIG_HOME:-$HOME/.config}/edgeembed"
  echo "${XDG_STATE_HOME:-$HOME/.local/state}/edgeembed"
}

uninstall_all() {
  if is_ours "$program"; then
    # Otherwise starting the removed program would fail at every login.
    run "$program" autostart disable || true
    run rm -f "$program"
  fi
  run rm -rf "$library"
  files | while IFS= read -r file; do
    run rm -f "$file"
  done
  for page in "$share"/man/man1/edgeembed.1.gz "$share"/man/man1/edgeembed-*.1.gz; do
    [ ! -e "$page" ] || run rm -f "$page"
  done
  data_folders | while IFS= read -r folder; do
    [ -e "$folder" ] || continue
    if [ "$purge" = yes ]; then
      run rm -rf "$folder"
    else
      echo "kept: $folder ($(du -sh "$folder" 2>/dev/null | cut -f1)); --uninstall --purge removes it"
    fi
  done
  [ "$dry" = yes ] || echo "edgeembed is removed"
}

if [ "$task" = install ]; then
  [ "$purge" = no ] || { echo "install.sh: --purge requires --uninstall" >&2; exit 2; }
  install_all
else
  uninstall_all
fi
