#!/usr/bin/env bash
# Puts the Valkey server of this Debian release, or of its backports, into a folder: FOLDER/usr/bin/valkey-server. Nothing is
# installed, and no service starts. The libraries that it needs are those of redis-server.
#
#   tests/cache/fetch_valkey.sh FOLDER
set -euo pipefail

folder=${1:?"usage: $0 FOLDER"}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC1091
read -r distribution release < <(. /etc/os-release && echo "$ID $VERSION_CODENAME")
address=$(apt-get indextargets --format "\$(RELEASE)|\$(COMPONENT)|\$(REPO_URI)" "Created-By: Packages" |
  sed -n "s/^$release|main|//p" | head -1)
[ -n "$address" ] || { echo "apt knows no source of $release: run apt-get update" >&2; exit 1; }
key=/usr/share/keyrings/$distribution-archive-keyring.gpg
[ -e "$key" ] && key="[signed-by=$key]" || key=""
mkdir -p "$work"/{lists/partial,cache/archives/partial,parts,get,out}
for suite in "$release" "$release-backports"; do
  echo "deb $key $address $suite main"
done >"$work/sources.list"
options=(-q -o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=$work/parts" -o "APT::Sandbox::User="
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache")
{ apt-get "${options[@]}" update && (cd "$work/get" && apt-get "${options[@]}" download valkey-server valkey-tools); } \
  >"$work/log" 2>&1 || { tail -5 "$work/log" >&2; exit 1; }
for package in "$work"/get/*.deb; do
  dpkg -x "$package" "$work/out"
done
"$work/out/usr/bin/valkey-server" --version
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv "$work/out" "$folder"
