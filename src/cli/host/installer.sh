#!/bin/sh
# Lets the Docker daemon of this machine be called over mutual TLS at @ADDRESS@:@PORT@, as host @NAME@ of a Portreeve.
#
#   run it as root on the worker:    sh install.sh
#   only write the files below DIR:  DESTDIR=DIR sh install.sh
#
# It holds the daemon's private key: keep it to yourself, and delete it when it has run. It may run again, and a newer
# one over an older. It writes /etc/docker/portreeve/, /etc/docker/daemon.json, a drop-in of systemd's docker.service and,
# where it brings a firewall, /usr/local/sbin/portreeve-firewall.sh with its unit; and puts back what was there if anything
# fails. The daemon is restarted: the first time its containers with it, later
# they run on (live-restore).
set -eu
umask 077
fail() { echo "error: $*" >&2; exit 1; }
say() { echo "==> $*"; }
put() { cat >"$1.new" && mv "$1.new" "$1"; }
# Directories that everybody uses: the umask is for keys.
common() { (umask 022 && mkdir -p "$@"); }

root=${DESTDIR:-}
etc=$root/etc/docker
mine=$etc/portreeve
before=$mine/before
config=$etc/daemon.json
units=$root/etc/systemd/system/docker.service.d
# What instances must not reach; empty: this script brings no rules.
rules_arguments="@RULES_ARGUMENTS@"
rules=$root/usr/local/sbin/portreeve-firewall.sh
rules_unit=$root/etc/systemd/system/portreeve-firewall.service

# Runs a command with each file that is replaced.
each() {
    for file in "$mine/ca.pem" "$mine/server-key.pem" "$mine/server-cert.pem" "$config" "$units/portreeve.conf"; do
        "$1" "$file"
    done
    if [ -n "$rules_arguments" ]; then
        "$1" "$rules"
        "$1" "$rules_unit"
    fi
}
keep_file() {
    if [ -f "$1" ]; then cp -p "$1" "$before.new/"; fi
}
back_file() {
    kept=$before/$(basename "$1")
    if [ -f "$kept" ]; then cp -p "$kept" "$1"; else rm -f "$1"; fi
}
# Called when nothing is kept: what an interrupted run has kept, which is what was there before it, is put back first.
keep() {
    mkdir -p "$before.new"
    each keep_file
    mv "$before.new" "$before"
}
back() {
    each back_file
    rm -rf "$before"
}
restart() {
    if [ -n "$systemd" ]; then
        systemctl daemon-reload
        # Tries of before count against its limit of starts.
        systemctl reset-failed docker.service 2>/dev/null || true
        systemctl restart docker.service
    else
        service docker restart
    fi
}
up() {
    tries=0
    until docker -H unix:///var/run/docker.sock version >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 30 ] || return 1
        sleep 1
    done
}
undo() {
    trap - EXIT HUP INT TERM
    say "putting back what was there"
    if [ -n "$guarded" ]; then unguard || true; fi
    back
    if [ -n "$restarted" ]; then restart || true; fi
    if [ -n "$guarded" ] && [ -n "$systemd" ] && [ -f "$rules_unit" ]; then guard || true; fi
    exit 1
}
# The rules, from now on.
guard() {
    if [ -n "$systemd" ]; then
        systemctl enable portreeve-firewall.service && systemctl restart portreeve-firewall.service
    else
        # shellcheck disable=SC2086
        "$rules" apply $rules_arguments
    fi
}
unguard() {
    if [ -n "$systemd" ]; then systemctl disable --now portreeve-firewall.service || true; fi
    "$rules" remove
}
firewall() {
    common "$(dirname "$rules")" "$(dirname "$rules_unit")"
    put "$rules" <<'RULES'
@RULES@
RULES
    chmod 755 "$rules"
    put "$rules_unit" <<'UNIT'
@RULES_UNIT@
UNIT
    chmod 644 "$rules_unit"
}
certificates() {
    put "$mine/ca.pem" <<'PEM'
@CA@
PEM
    put "$mine/server-key.pem" <<'PEM'
@KEY@
PEM
    put "$mine/server-cert.pem" <<'PEM'
@CERT@
PEM
}
# What is in daemon.json, and ours over it.
merged() {
    if [ ! -s "$config" ]; then
        printf '%s\n' "$1"
    elif command -v python3 >/dev/null; then
        python3 -c 'import json, sys
there, ours = json.load(open(sys.argv[1], encoding="utf-8-sig")), json.loads(sys.argv[2])
print(json.dumps({**there, **ours}, indent=2))' "$config" "$1"
    elif command -v jq >/dev/null; then
        jq --argjson ours "$1" '. + $ours' "$config"
    elif [ "$(cat "$config")" = "$1" ]; then
        printf '%s\n' "$1"
    else
        return 1
    fi
}

# The last line calls it: of a script that was cut off on its way, nothing is done.
main() {
    systemd=
    if [ -n "$root" ] || [ -d /run/systemd/system ]; then systemd=yes; fi
    restarted=
    guarded=
    start=/usr/sbin/dockerd
    if [ -z "$root" ]; then
        [ "$(id -u)" = 0 ] || fail "run this as root"
        command -v dockerd >/dev/null || fail "there is no dockerd here; on Debian: apt-get install docker.io"
        command -v docker >/dev/null || fail "there is no docker command here; on Debian: apt-get install docker-cli"
        if [ -n "$rules_arguments" ] && ! command -v iptables >/dev/null; then
            fail "there is no iptables here; on Debian: apt-get install iptables; or make this script with --no-firewall"
        fi
    fi
    if [ -n "$systemd" ] && [ -z "$root" ]; then
        # The unit says -H, which the daemon takes for a contradiction of "hosts".
        start=$(systemctl cat docker.service | sed -e ':a' -e '/\\$/{N;s/\\\n/ /;ta' -e '}' |
            sed -n 's/^ExecStart=\(..*\)$/\1/p' | tail -n 1 | sed -E 's/ +(-H[ =]?|--host[ =])[^ ]+//g')
        [ -n "$start" ] || fail "docker.service has no ExecStart; see: systemctl cat docker.service"
    fi
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
    common "$etc"
    mkdir -p "$mine"
    if [ -n "$systemd" ]; then
        common "$units"
        chmod 755 "$units"
    fi
    if [ -d "$before" ]; then back; fi
    whole=$(merged "$ours") || fail "$config cannot be added to (is it JSON, and is python3 or jq here?); add this by hand \
and run this again:
$ours"
    case $whole in
    *"tcp://@SOCKET@"*) ;;
    *) fail "$config was not understood; add this by hand and run this again:
$ours" ;;
    esac

    keep
    trap undo EXIT HUP INT TERM
    certificates
    say "certificates are in $mine"
    printf '%s\n' "$whole" | put "$config"
    if [ -f "$before/daemon.json" ]; then chmod --reference="$before/daemon.json" "$config"; else chmod 644 "$config"; fi
    say "$config says where to listen, and with which certificates"
    if [ -n "$systemd" ]; then
        printf '[Service]\nExecStart=\nExecStart=%s\n' "$start" | put "$units/portreeve.conf"
        chmod 644 "$units/portreeve.conf"
        say "$units/portreeve.conf lets \"hosts\" count"
    fi
    if [ -n "$rules_arguments" ]; then
        firewall
        say "$rules keeps instances from this machine and from one another: $rules_arguments"
    fi
    if [ -z "$root" ]; then
        say "restarting the Docker daemon"
        restarted=yes
        restart
        up || { echo "error: it does not come up; see: journalctl -u docker.service" >&2; false; }
        if [ -n "$rules_arguments" ]; then
            say "setting the firewall's rules"
            guarded=yes
            guard || { echo "error: the rules cannot be set; see: journalctl -u portreeve-firewall.service" >&2; false; }
            [ -n "$systemd" ] || say "at boot, after Docker, run: $rules apply $rules_arguments"
        fi
    fi
    trap - EXIT HUP INT TERM
    rm -rf "$before"
    say "done: it listens on @ADDRESS@:@PORT@. Go on at the control plane:"
    echo "    portreeve host add @NAME@ --endpoint tcp://@SOCKET@"
}
main
