#!/bin/sh
# Keeps the instances of a Docker host from the host itself, from one another, and from what is named.
#
#   portreeve-firewall.sh apply POOL [ADDRESS[:TCP-PORT]]...
#   portreeve-firewall.sh remove
#
# POOL is the host's spec.subnetPool. Run it as root on the host, after Docker: at boot, and again after anything that
# empties the firewall. Running it twice changes nothing. Docker's own rules are left alone: what Docker makes anew at
# its start does not touch ours.
set -eu

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

rules() { iptables --wait 10 "$@"; }

# A jump at the head of a chain, once.
jump() {
    rules -C "$1" -j "$2" 2>/dev/null || rules -I "$1" 1 -j "$2"
}

drop() {
    while rules -C "$1" -j "$2" 2>/dev/null; do rules -D "$1" -j "$2"; done
    rules -F "$2" 2>/dev/null || return 0
    rules -X "$2"
}

apply() {
    pool=$1
    shift
    # Made and filled first, and entered last: there is no moment with half of the rules.
    for chain in PORTREEVE-INPUT PORTREEVE-FORWARD; do
        rules -N "$chain" 2>/dev/null || true
    done
    # Docker makes it, and never touches what is in it. Without Docker's, forwarding has nothing to guard yet.
    rules -N DOCKER-USER 2>/dev/null || true
    {
        echo '*filter'
        echo ':PORTREEVE-INPUT - [0:0]'
        echo ':PORTREEVE-FORWARD - [0:0]'
        # Answers to whoever asked the instance: the proxy, its probes.
        echo "-A PORTREEVE-INPUT -s $pool -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
        echo "-A PORTREEVE-INPUT -s $pool -j REJECT --reject-with icmp-admin-prohibited"
        echo "-A PORTREEVE-FORWARD -s $pool -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
        # Inside one instance's own network, where bridged packets pass here, too.
        echo "-A PORTREEVE-FORWARD -m physdev --physdev-is-bridged -j RETURN"
        echo "-A PORTREEVE-FORWARD -s $pool -d $pool -j REJECT --reject-with icmp-admin-prohibited"
        for denied in "$@"; do
            case $denied in
                *:*) to="-d ${denied%:*} -p tcp --dport ${denied##*:}" ;;
                *) to="-d $denied" ;;
            esac
            echo "-A PORTREEVE-FORWARD -s $pool $to -j REJECT --reject-with icmp-admin-prohibited"
        done
        echo 'COMMIT'
    } | iptables-restore --wait 10 --noflush
    jump INPUT PORTREEVE-INPUT
    jump DOCKER-USER PORTREEVE-FORWARD
}

case ${1:-} in
    apply)
        [ $# -ge 2 ] || usage
        shift
        apply "$@"
        ;;
    remove)
        [ $# -eq 1 ] || usage
        drop INPUT PORTREEVE-INPUT
        drop DOCKER-USER PORTREEVE-FORWARD
        ;;
    *) usage ;;
esac
