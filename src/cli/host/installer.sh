#!/bin/sh
# Lets the Docker daemon of this machine be called over mutual TLS at @ADDRESS@:@PORT@, as host @NAME@ of a Portreeve.
#
#   run it as root on the worker:    sh install.sh
#   only write the files below DIR:  DESTDIR=DIR sh install.sh
#
# It holds the daemon's private key: keep it to yourself, and delete it when it has run. It may run again, and a newer
# one over an older. It writes /etc/docker/portreeve/, /etc/docker/daemon.json and a drop-in of systemd's docker.service,
# and puts back what was there if the daemon does not come up with it. The daemon is restarted: the first time its
# containers with it, later they run on (live-restore).
set -eu
umask 077
fail() { echo "error: $*" >&2; exit 1; }
say() { echo "==> $*"; }

root=${DESTDIR:-}
etc=$root/etc/docker
mine=$etc/portreeve
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run this as root"
[ -n "$root" ] || command -v dockerd >/dev/null || fail "there is no dockerd here; on Debian: apt-get install docker.io"
systemd=
if [ -n "$root" ] || [ -d /run/systemd/system ]; then systemd=yes; fi

mkdir -p "$mine"
before=$mine/before
rm -rf "$before"
mkdir "$before"
for file in ca.pem server-key.pem server-cert.pem; do
    [ ! -f "$mine/$file" ] || cp -p "$mine/$file" "$before/"
done
put() { cat >"$1.new" && mv "$1.new" "$1"; }
put "$mine/ca.pem" <<'PEM'
@CA@
PEM
put "$mine/server-key.pem" <<'PEM'
@KEY@
PEM
put "$mine/server-cert.pem" <<'PEM'
@CERT@
PEM
say "certificates are in $mine"

if [ -n "$systemd" ]; then socket=fd://; else socket=unix:///var/run/docker.sock; fi
ours=$(cat <<JSON
{
  "hosts": ["$socket", "tcp://@SOCKET@"],
  "live-restore": true,
  "tlsverify": true,
  "tlscacert": "/etc/docker/portreeve/ca.pem",
  "tlscert": "/etc/docker/portreeve/server-cert.pem",
  "tlskey": "/etc/docker/portreeve/server-key.pem"
}
JSON
)
config=$etc/daemon.json
if [ -s "$config" ]; then
    cp -p "$config" "$before/"
    if command -v python3 >/dev/null; then
        python3 -c 'import json, sys
there, ours = json.load(open(sys.argv[1])), json.loads(sys.argv[2])
print(json.dumps({**there, **ours}, indent=2))' "$config" "$ours" | put "$config"
    elif command -v jq >/dev/null; then
        jq --argjson ours "$ours" '. + $ours' "$config" | put "$config"
    elif [ "$(cat "$config")" != "$ours" ]; then
        fail "$config is there, and neither python3 nor jq to add to it; add this by hand and run this again:
$ours"
    fi
else
    printf '%s\n' "$ours" | put "$config"
fi
chmod 644 "$config"
say "$config says where to listen, and with which certificates"

dropin=
if [ -n "$systemd" ]; then
    # The unit says -H, which the daemon takes for a contradiction of "hosts".
    dropin=$root/etc/systemd/system/docker.service.d/portreeve.conf
    start=/usr/sbin/dockerd
    if [ -z "$root" ]; then
        start=$(systemctl cat docker.service | sed -n 's/^ExecStart=\(..*\)$/\1/p' | tail -n 1 |
            sed -E 's/ (-H|--host)[ =]?[^ ]+//g')
    fi
    [ -n "$start" ] || fail "docker.service has no ExecStart; see: systemctl cat docker.service"
    [ ! -f "$dropin" ] || cp -p "$dropin" "$before/"
    mkdir -p "$(dirname "$dropin")"
    chmod 755 "$(dirname "$dropin")"
    printf '[Service]\nExecStart=\nExecStart=%s\n' "$start" | put "$dropin"
    chmod 644 "$dropin"
    say "$dropin lets \"hosts\" count"
fi
if [ -n "$root" ]; then rm -rf "$before"; exit 0; fi

up() {
    tries=0
    until docker -H unix:///var/run/docker.sock version >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 30 ] || return 1
        sleep 1
    done
}
restart() {
    if [ -n "$systemd" ]; then
        systemctl daemon-reload && systemctl restart docker.service
    else
        service docker restart
    fi
}
say "restarting the Docker daemon"
if restart && up; then
    rm -rf "$before"
    say "done: it listens on @ADDRESS@:@PORT@. Go on at the control plane:"
    echo "    portreeve host add @NAME@ --endpoint tcp://@SOCKET@"
    exit 0
fi
say "it does not come up; putting back what was there"
back() {
    if [ -f "$before/$1" ]; then mv "$before/$1" "$2/$1"; else rm -f "$2/$1"; fi
}
back daemon.json "$etc"
[ -z "$dropin" ] || back portreeve.conf "$(dirname "$dropin")"
for file in ca.pem server-key.pem server-cert.pem; do back "$file" "$mine"; done
restart || true
fail "the Docker daemon did not start with this configuration; see: journalctl -u docker.service"
