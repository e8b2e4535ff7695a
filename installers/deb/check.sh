#!/usr/bin/env bash
# Builds the Debian package and tests it in a chroot: install, serve, upgrade, remove, purge, lintian.
#
#   sudo installers/deb/check.sh FOLDER [WHEEL]
#
# FOLDER keeps the packages and the minimal system for later runs. Needs, besides the requirements of build.sh: apt install
# debootstrap lintian. The chroot has its own mounts and processes, but this machine's network: packages and a small model are
# downloaded, and the daemon listens on localhost, port CHECK_PORT (18327).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_tree=$(cd "$here/../.." && pwd)
folder=${1:?"usage: $0 FOLDER [WHEEL]"}
port=${CHECK_PORT:-18327}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

say() { echo "== $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# --- inside: called again with its own mounts and processes -----------------------------------------------------------

system=$folder/system
inside() { chroot "$system" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
# Not a function: signals to background jobs must reach the program, not a subshell.
as_user=(chroot --userspec=tester:tester "$system" env -i PATH=/usr/bin:/bin HOME=/home/tester LANG=C.UTF-8)
there() { [[ -e $system$1 || -L $system$1 ]] || fail "$1 is missing $2"; }
gone() { [[ ! -e $system$1 && ! -L $system$1 ]] || fail "$1 exists $2"; }

serve_and_ask() {
  "${as_user[@]}" edgeembed serve --port "$port" --model all-minilm-l6-v2 2>"$folder/serve.log" &
  local daemon=$!
  "${as_user[@]}" python3 - "$port" <<'PYTHON' || { cat "$folder/serve.log" >&2; fail "the daemon does not respond"; }
import json, sys, time, urllib.error, urllib.request

base = f"http://127.0.0.1:{sys.argv[1]}"
for _ in range(240):
    try:
        urllib.request.urlopen(f"{base}/readyz", timeout=5)
        break
    except (urllib.error.URLError, OSError):
        time.sleep(0.5)
request = urllib.request.Request(
    f"{base}/v1/embeddings", json.dumps({"input": "hello"}).encode(), {"Content-Type": "application/json"}
)
row = json.load(urllib.request.urlopen(request, timeout=60))["data"][0]["embedding"]
assert len(row) == 384 and abs(sum(x * x for x in row) - 1) < 1e-3, row[:4]
status = json.load(urllib.request.urlopen(f"{base}/v1/status", timeout=10))
print("   version", status.get("version"), "returned a vector of", len(row), "numbers")
PYTHON
  kill -TERM "$daemon"
  wait "$daemon" || fail "the daemon exited with status $?"
}

if [[ ${1:-} && ${INSIDE:-} == yes ]]; then
  old=$2 new=$3
  mount -t proc proc "$system/proc"
  mount -t tmpfs tmpfs "$system/dev/shm" 2>/dev/null || true
  cp "$old" "$new" "$system/srv/"

  say "install $(basename "$old")"
  inside apt-get update -qq
  inside apt-get install -y -qq --no-install-recommends "/srv/$(basename "$old")" >"$folder/install.log" 2>&1 ||
    { tail -20 "$folder/install.log" >&2; fail "apt cannot install it"; }
  inside useradd --create-home tester
  "${as_user[@]}" edgeembed --version
  gone /etc/systemd/system/multi-user.target.wants/edgeembed.service "although nothing should be enabled"
  for file in usr/share/man/man1/edgeembed.1.gz usr/share/bash-completion/completions/edgeembed \
    usr/share/applications/edgeembed.desktop usr/lib/systemd/system/edgeembed.service; do there "/$file" "after the install"; done
  [[ $(find "$system/usr/lib/edgeembed" -name __pycache__ | head -1) ]] || fail "the modules were not compiled"

  say "pull and serve as an ordinary user"
  "${as_user[@]}" edgeembed pull all-minilm-l6-v2 2>&1 | tail -2
  serve_and_ask

  say "upgrade to $(basename "$new")"
  echo 'EDGEEMBED_PORT=9000' >>"$system/etc/edgeembed/edgeembed.env"
  inside dpkg --install "/srv/$(basename "$new")" >>"$folder/install.log" 2>&1 || fail "dpkg cannot upgrade it"
  grep -q EDGEEMBED_PORT=9000 "$system/etc/edgeembed/edgeembed.env" || fail "the upgrade lost a setting"
  "${as_user[@]}" edgeembed --version
  serve_and_ask

  say "remove"
  mkdir -p "$system"/var/{lib,cache}/private/edgeembed/models
  for parent in lib cache; do ln -s private/edgeembed "$system/var/$parent/edgeembed"; done
  inside dpkg --remove edgeembed | grep '^edgeembed:'
  gone /usr/lib/edgeembed "after the removal"
  gone /usr/bin/edgeembed "after the removal"
  there /var/lib/private/edgeembed/models "after the removal"
  there /etc/edgeembed/edgeembed.env "after the removal"
  there /home/tester/.local/share/edgeembed/models "after the removal"

  say "purge"
  inside dpkg --purge edgeembed | grep '^edgeembed:'
  for path in /var/lib/private/edgeembed /var/lib/edgeembed /var/cache/private/edgeembed /var/cache/edgeembed /etc/edgeembed; do
    gone "$path" "after the purge"
  done
  there /home/tester/.local/share/edgeembed/models "after the purge"
  inside dpkg --audit
  exit 0
fi

# --- outside --------------------------------------------------------------------------------------------------------------

wheel=${2:-}
if [[ -z $wheel ]]; then
  wheel=$(PYTHON=/usr/bin/python3 "$source_tree/installers/wheel/build.sh" "$folder/wheels" | tail -n 1)
fi

say "build this version and a later one"
later=$folder/later
rm -rf "$later" "$folder/old" "$folder/new"
mkdir -p "$later"
cp -r "$source_tree"/{pyproject.toml,README.md,CHANGELOG.md,LICENSE,docs,edgeembed,convert,models,installers} "$later"
sed -i '0,/^version = "\(.*\)"/s//version = "\1.post1"/' "$later/pyproject.toml"
# The same wheel as another version, instead of compiling it again.
later_wheel=$(/usr/bin/python3 - "$wheel" "$later" <<'PYTHON'
import pathlib, sys, zipfile
wheel, folder = map(pathlib.Path, sys.argv[1:])
sys.path.insert(0, str(folder / "installers" / "wheel"))
from wheel_file import WheelWriter
name, version, *tags = wheel.name.split("-")
old, new = f"{name}-{version}.dist-info", f"{name}-{version}.post1.dist-info"
made = folder / "-".join((name, f"{version}.post1", *tags))
with zipfile.ZipFile(wheel) as source, WheelWriter(made, new) as writer:
    for entry in source.namelist():
        data = source.read(entry)
        if entry == f"{old}/METADATA":
            data = data.replace(f"Version: {version}\n".encode(), f"Version: {version}.post1\n".encode(), 1)
        if entry != f"{old}/RECORD":
            writer.add(entry.replace(old, new), data)
print(made)
PYTHON
)
old=$(COMPRESSION=${COMPRESSION:-1} "$here/build.sh" "$folder/old" "$wheel" 2>"$folder/build.log" | tail -1)
new=$(COMPRESSION=0 "$later/installers/deb/build.sh" "$folder/new" "$later_wheel" 2>>"$folder/build.log" | tail -1)

if [[ ! -f $folder/base.tar ]]; then
  say "create a minimal system"
  # With the mirror and the release of this machine.
  read -r mirror release < <(apt-get indextargets --format "\$(REPO_URI) \$(RELEASE)" 'Created-By: Packages' | head -1)
  rm -rf "$system"
  debootstrap --variant=minbase --include=ca-certificates "$release" "$system" "$mirror" >"$folder/debootstrap.log"
  tar -C "$system" -cf "$folder/base.tar" .
fi
rm -rf --one-file-system "$system"
mkdir "$system"
tar -C "$system" -xf "$folder/base.tar"
# The system-wide configuration for accessing the package index.
for file in /etc/resolv.conf /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  [[ ! -f $file ]] || install -Dm644 "$(realpath "$file")" "$system$file"
done
INSIDE=yes unshare --mount --pid --fork --kill-child "$0" "$folder" "$old" "$new"

say "lintian $(basename "$old")"
lint=(lintian --fail-on error)
[[ $EUID -ne 0 ]] || lint+=(--allow-root)
"${lint[@]}" "$old" || fail "lintian has errors"
say "all checks passed"
