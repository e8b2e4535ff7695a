#!/usr/bin/env bash
# Builds the Debian package for this machine's release and architecture.
#
#   installers/deb/build.sh FOLDER [WHEEL]
#
# FOLDER receives edgeembed_VERSION_ARCH.deb. WHEEL is the result of installers/wheel/build.sh; by default that script runs first.
# Needs: apt install dpkg-dev fakeroot python3-venv, and what that script needs. The package contains a virtual environment for the
# release's Python in /usr/lib/edgeembed, so installing it downloads nothing. DEBFULLNAME and DEBEMAIL set the maintainer;
# COMPRESSION=0 builds faster.
set -euo pipefail

installers=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source_tree=$(dirname "$installers")
folder=${1:?"usage: $0 FOLDER [WHEEL]"}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=/usr/bin/python3

if [[ -z ${FAKEROOTKEY:-} ]]; then
  # Files in a package belong to root. The compiler runs before, because fakeroot would slow it down.
  if [[ -z ${2:-} ]]; then
    set -- "$folder" "$(PYTHON=$python "$installers/wheel/build.sh" "$folder/wheels" | tail -n 1)"
  fi
  exec fakeroot "$0" "$folder" "$(realpath "$2")"
fi
wheel=$2

version=$("$python" "$installers/metadata.py" debian-version)
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
home=$root/usr/lib/edgeembed
umask 022
mkdir -p "$root/DEBIAN" "$home"

# --- the environment ----------------------------------------------------------------------------------------------------

"$python" -m venv --symlinks "$home"
"$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --upgrade pip
"$home/bin/python" -m pip install --quiet --no-compile "${wheel}[bulk,documents,sqlite,tray]"

share=$root/usr/share
"$home/bin/python" "$installers/manpages.py" "$share/man/man1"
"$home/bin/python" "$installers/icons/draw.py" "$work/icons"
for size in 16 24 32 48 64 128 256 512; do
  install -Dm644 "$work/icons/edgeembed-$size.png" "$share/icons/hicolor/${size}x$size/apps/edgeembed.png"
done
install -Dm644 "$work/icons/edgeembed.svg" "$share/icons/hicolor/scalable/apps/edgeembed.svg"
install -Dm644 "$installers/edgeembed.desktop" "$share/applications/edgeembed.desktop"
complete() { "$home/bin/edgeembed" completion "$1" | install -Dm644 /dev/stdin "$share/$2"; }
complete bash bash-completion/completions/edgeembed
complete zsh zsh/vendor-completions/_edgeembed
complete fish fish/vendor_completions.d/edgeembed.fish

# The tray's best backend is the release's PyGObject, if installed: the only system package that is made visible.
site=$(echo "$home"/lib/python3*/site-packages)
ln -s /usr/lib/python3/dist-packages/gi "$site/gi"

# Only the interpreter and the program: this environment is not for activating, or for installing packages.
find "$home/bin" -mindepth 1 ! -name 'python*' ! -name edgeembed -delete
rm -rf "$home/include" "$home"/share
find "$home" -name __pycache__ -prune -exec rm -rf {} +
find "$home" \( -name '*.h' -o -name '*.pyx' -o -name '*.c' -o -name '*.a' \) -type f -delete
find "$site" -type d -name tests -prune -exec rm -rf {} +
sed -i '1s|.*|#!/usr/lib/edgeembed/bin/python|' "$home/bin/edgeembed"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$home/pyvenv.cfg"
printf '%s\n' 'the Debian package' ${RELEASE_PAGE:+"releases=$RELEASE_PAGE"} >"$home/edgeembed-package" # common/installation.py reads it
find "$site" -name direct_url.json -delete # it contains the path of the sources on this machine
# Not stripped: libraries in wheels were changed after linking, and strip damages such files.
find "$home" -type f -name '*.so*' -exec chmod 644 {} +
find "$home" -type f -perm /111 ! -path "$home/bin/*" -exec chmod 644 {} +
mkdir -p "$root/usr/bin"
ln -s ../lib/edgeembed/bin/edgeembed "$root/usr/bin/edgeembed"

# --- system files ---------------------------------------------------------------------------------------------

install -Dm644 "$installers/systemd/edgeembed.service" "$root/usr/lib/systemd/system/edgeembed.service"
install -Dm600 "$installers/deb/edgeembed.env" "$root/etc/edgeembed/edgeembed.env"
echo /etc/edgeembed/edgeembed.env >"$root/DEBIAN/conffiles"
documents=$share/doc/edgeembed
install -Dm644 "$source_tree/README.md" "$documents/README.md"
install -Dm644 -t "$documents/docs" "$source_tree"/docs/*.md
install -Dm644 "$installers/deb/copyright" "$documents/copyright"
install -Dm644 "$installers/deb/lintian-overrides" "$share/lintian/overrides/edgeembed"
gzip -9n <"$source_tree/CHANGELOG.md" >"$documents/changelog.gz"
date=$(date -R -d "@${SOURCE_DATE_EPOCH:-$(git -C "$source_tree" log -1 --format=%ct 2>/dev/null || date +%s)}")
maintainer="${DEBFULLNAME:-The edgeembed developers} <${DEBEMAIL:-edgeembed@localhost}>"
printf 'edgeembed (%s) unstable; urgency=medium\n\n  * See changelog.gz in this folder.\n\n -- %s  %s\n' \
  "$version" "$maintainer" "$date" | gzip -9n >"$documents/changelog.Debian.gz"

# --- dependencies and control -------------------------------------------------------------------------------------------

# System libraries that modules in the environment need; libraries contained in wheels are excluded.
mkdir -p "$work/debian" && printf 'Source: edgeembed\n\nPackage: edgeembed\nArchitecture: any\n' >"$work/debian/control"
mapfile -t modules < <(find "$home" -type f -name '*.so*')
mapfile -t private < <(printf '%s\n' "${modules[@]}" | xargs -d '\n' -n1 dirname | sort -u | sed 's/^/-l/')
libraries=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info "${private[@]}" "${modules[@]/#/-e}" 2>"$work/shlibdeps.log" |
  sed -n 's/^shlibs:Depends=//p') || { cat "$work/shlibdeps.log" >&2; exit 1; }
minor=$("$python" -c 'import sys; print("3." + str(sys.version_info[1]))')
next=3.$((${minor#3.} + 1))
for script in postinst prerm postrm; do install -m755 "$installers/deb/$script" "$root/DEBIAN/$script"; done
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/md5sums" "$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: edgeembed
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Section: science
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: python3 (>= $minor), python3 (<< $next), $libraries
Recommends: ca-certificates
Suggests: gir1.2-ayatanaappindicator3-0.1, libnotify-bin, python3-gi
Description: private embedding server for your own computer
 edgeembed provides OpenAI's embeddings API on localhost. It runs quantised
 models with llama.cpp on any processor of this architecture, caches the
 vectors of frequent queries, and sends no text anywhere.
 .
 Installing it starts nothing: "edgeembed serve" runs a daemon for one user,
 and the unit edgeembed.service a system-wide one.
CONTROL

package=$folder/edgeembed_${version}_$architecture.deb
dpkg-deb --build -Zxz "-z${COMPRESSION:-6}" "$root" "$package" >/dev/null
echo "$package"
