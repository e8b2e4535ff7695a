#!/usr/bin/env bash
# Boots a temporary copy of this machine in a container with systemd, and tests both units there: edgeembed.service in this
# folder, and the one that `edgeembed autostart enable` writes.
#
#   bash installers/systemd/check.sh .venv MODEL.gguf
#
# .venv: a virtual environment with edgeembed, of the same Python version as /usr/bin/python3 (whose interpreter the container
# uses, because services cannot access home folders). Needs root, systemd-container and overlayfs; writes only to memory, and
# uses no network. Exits with status 0 if all checks pass.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=$(realpath "${1:?a virtual environment}") model=$(realpath "${2:?a GGUF file}")
packages=$(echo "$venv"/lib/python3.*/site-packages)
version=$(/usr/bin/python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
[[ $packages == */$version/* ]] || { echo "$venv must have the version of /usr/bin/python3, $version" >&2; exit 2; }

work=$(mktemp -d) container='' leader=''
clean() {
  if [[ -n $leader ]]; then inside systemctl poweroff || true; fi
  if [[ -n $container ]]; then wait "$container" || true; fi
  umount "$work/memory/root" || true
  umount "$work/memory" || true
  rmdir "$work/memory" "$work"
}
inside() { nsenter -t "$leader" -m -u -i -n -p -C -- "$@"; }
ann() { inside runuser -u ann -- env XDG_RUNTIME_DIR=/run/user/4321 EDGEEMBED_HOME="/home/ann/a \$b %h" "$@"; }
ok() { echo "ok    $*"; }
fail() { echo "FAIL  $*" >&2; inside journalctl --no-pager -n 40 >&2 || true; exit 1; }
property() { inside systemctl show --value -p "$1" edgeembed; }
answers() {
  for _ in $(seq 60); do
    inside curl -sf -o /dev/null "http://127.0.0.1:$1/v1/embeddings" -H 'content-type: application/json' \
      -d "{\"input\":\"$RANDOM\"}" && return
    sleep 0.5
  done
  return 1
}
main_changes() {
  for _ in $(seq 90); do
    now=$(property MainPID)
    if [[ $now != 0 && $now != "$1" ]]; then return; fi
    sleep 0.5
  done
  return 1
}

mkdir "$work/memory"
trap clean EXIT
mount -t tmpfs -o size=1g tmpfs "$work/memory"
mkdir "$work/memory/"{upper,work,root}
root=$work/memory/root
mount -t overlay -o "lowerdir=/,upperdir=$work/memory/upper,workdir=$work/memory/work" overlay "$root"
rm -rf "$root"/etc/systemd/system/*.wants  # without the machine's own services
: >"$root/etc/machine-id"
chroot "$root" useradd -m -u 4321 ann
chroot "$root" /usr/bin/python3 -m venv --without-pip "/opt/edge embed"
echo "import site; site.addsitedir('$packages')" >"$root/opt/edge embed/lib/$version/site-packages/edgeembed.pth"
printf '#!/bin/sh\nexec "/opt/edge embed/bin/python" -P -m edgeembed "$@"\n' >"$root/usr/bin/edgeembed"
chmod 755 "$root/usr/bin/edgeembed"
install -D -m 644 "$model" "$root/usr/share/edgeembed-check.gguf"
mkdir -p "$root/etc/edgeembed" "$root/home/ann/a \$b %h"
echo EDGEEMBED_MODEL=/usr/share/edgeembed-check.gguf >"$root/etc/edgeembed/edgeembed.env"
printf 'model = "/usr/share/edgeembed-check.gguf"\nport = 8328\n' >"$root/home/ann/a \$b %h/config.toml"
chroot "$root" chown -R ann: /home/ann
cp installers/systemd/edgeembed.service "$root/etc/systemd/system/"
chroot "$root" systemctl -q enable edgeembed

systemd-nspawn -q -D "$root" -b --private-network --register=no --keep-unit </dev/null >"$work/memory/console" 2>&1 &
container=$!
for _ in $(seq 60); do leader=$(pgrep -P "$container" || true); [[ -z $leader ]] || break; sleep 0.5; done
for _ in $(seq 60); do inside systemctl is-active -q multi-user.target 2>/dev/null && break; sleep 0.5; done

echo "--- the system unit, $(inside systemctl --version | head -1)"
answers 8327 || fail "it does not respond"
[[ $(property ActiveState) == active ]] || fail "it is $(property ActiveState)"
ok "ready and answering: $(property StatusText)"
pid=$(property MainPID)
inside grep -qE '^CapEff:\s0+$' "/proc/$pid/status" || fail "it has capabilities"
inside grep -qE '^Seccomp:\s2$' "/proc/$pid/status" || fail "no system calls are filtered"
inside grep -qE '^Uid:\s0\b' "/proc/$pid/status" && fail "it runs as root"
ok "not root, no capabilities, system calls filtered"
inside curl -sf http://127.0.0.1:8327/v1/status | grep -q '"seccomp":true' || fail "its worker has no sandbox"
ok "its worker is in a sandbox: $(inside curl -sf http://127.0.0.1:8327/v1/status | grep -o '"words":"[^"]*"')"
inside sh -c 'test -d /var/lib/private/edgeembed/state && test -f /var/cache/private/edgeembed/vectors/cache.db' ||
  fail "its files are not where they belong"
ok "state in /var/lib/edgeembed, cache in /var/cache/edgeembed"
inside pkill -9 -f 'edgeembed.engine.worker.main'
answers 8327 || fail "no answer after its worker was killed"
[[ $(property MainPID) == "$pid" ]] || fail "a killed worker took the daemon along"
ok "a killed worker is restarted, and the daemon keeps running"
inside kill -9 "$pid"
if ! main_changes "$pid" || ! answers 8327; then fail "it was not started again"; fi
ok "a killed daemon is started again"
inside mkdir -p /run/systemd/system/edgeembed.service.d
inside sh -c 'printf "[Service]\nWatchdogSec=8\n" >/run/systemd/system/edgeembed.service.d/watchdog.conf'
inside systemctl daemon-reload
inside systemctl restart edgeembed
sleep 20
pid=$(property MainPID)
[[ $(property NRestarts) == 0 ]] || fail "the watchdog killed a healthy daemon"
inside kill -STOP "$pid"
if ! main_changes "$pid" || ! answers 8327; then fail "the watchdog did not notice that it hangs"; fi
ok "the watchdog kills a hanging daemon, but not a healthy one"
inside sh -c 'echo EDGEEMBED_PORT=99999 >>/etc/edgeembed/edgeembed.env'
inside systemctl restart edgeembed 2>/dev/null && fail "wrong settings were accepted"
sleep 5
[[ $(property ActiveState)/$(property ExecMainStatus) == failed/2 ]] || fail "it is restarted with wrong settings"
ok "wrong settings are reported once"
inside sed -i /99999/d /etc/edgeembed/edgeembed.env

echo "--- the commands in README.md"
as_service() {
  inside systemd-run -q --pipe --wait -p DynamicUser=yes -p User=edgeembed -p StateDirectory=edgeembed \
    -p CacheDirectory=edgeembed -p UMask=0077 -E HOME=/var/lib/edgeembed -E XDG_CONFIG_HOME=/var/lib \
    -E XDG_DATA_HOME=/var/lib -E XDG_STATE_HOME=/var/lib -E XDG_CACHE_HOME=/var/cache edgeembed "$@"
}
inside systemctl restart edgeembed
as_service config set max_queue_tokens 1000 >/dev/null || fail "commands cannot run as the service"
[[ $(as_service cache path) == /var/cache/edgeembed* ]] || fail "commands do not see the cache"
as_service cache stats >/dev/null || fail "commands cannot read the cache"
inside grep -qx 'max_queue_tokens = 1000' /var/lib/edgeembed/config.toml || fail "the setting is not in config.toml"
ok "commands run as the service's user, while it runs"
echo 'box: sesame-open-4711' >"$root/etc/edgeembed/api-keys"
chmod 600 "$root/etc/edgeembed/api-keys"
printf '[Service]\n%s\n%s\n' 'LoadCredential=api-keys:/etc/edgeembed/api-keys' \
  'Environment=EDGEEMBED_API_KEY_FILE=%d/api-keys EDGEEMBED_HOST=0.0.0.0' |
  inside tee /run/systemd/system/edgeembed.service.d/keys.conf >/dev/null
inside systemctl daemon-reload
inside systemctl restart edgeembed || fail "it does not start with keys"
url=http://127.0.0.1:8327/v1/models
[[ $(inside curl -s -o /dev/null -w '%{http_code}' $url) == 401 ]] || fail "no API key is required"
[[ $(inside curl -s -o /dev/null -w '%{http_code}' -H 'Authorization: Bearer sesame-open-4711' $url) == 200 ]] ||
  fail "the API key is rejected"
ok "API keys come from a systemd credential, which only root can read"

echo "--- the user unit"
inside loginctl enable-linger ann
for _ in $(seq 60); do ann systemctl --user show-environment >/dev/null 2>&1 && break; sleep 0.5; done
ann edgeembed autostart enable --unless-off >/dev/null
[[ $(ann systemctl --user is-enabled edgeembed) == enabled ]] || fail "it is not enabled according to systemd"
inside systemctl restart user@4321
answers 8328 || fail "it did not start with the session"
[[ $(ann systemctl --user is-active edgeembed) == active ]] || fail "it is not active"
ok "enabled, and started with the next session: $(ann systemctl --user show --value -p StatusText edgeembed)"
ann systemctl --user -q disable edgeembed
ann edgeembed autostart enable --unless-off >/dev/null
[[ $(ann systemctl --user is-enabled edgeembed) == disabled ]] || fail "an upgrade enabled it again"
ok "disabling with systemctl is respected"
ann edgeembed autostart enable >/dev/null
ann edgeembed autostart disable >/dev/null
[[ -z $(inside find /home/ann/.config/systemd -type f -o -type l) ]] || fail "disable left files behind"
ann edgeembed autostart enable --unless-off >/dev/null
ann edgeembed autostart status >/dev/null && fail "an upgrade enabled it again"
ok "disable removes the unit and its link, and is respected"
