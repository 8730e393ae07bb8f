#!/usr/bin/env bash
# The names of this machine in; the certificates, passwords and tokens that compose.yaml mounts, out. What exists stays.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: setup.sh [HOST...]          what is missing of certificates, passwords and tokens, in secrets/ beside this script
       setup.sh --user NAME        a password for a device, or for viewer, nurse, homeassistant or worker; shown once
       setup.sh --certificate NAME a certificate instead, for port 8884

HOST is a name or an address by which other machines reach this one. Run it as root: each container's files are to belong to
its user. Run it again to renew certificates (fewer than 30 days left), then: docker compose -f deploy/compose.yaml restart

  --keep-owner    let the files belong to whoever runs this (an engine without root, where you see to it yourself)
  --help          this text

Exit code: 0 done, or nothing to do; 1 something failed; 2 wrong use.
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
secrets=$here/secrets
keep_owner="" hosts=() user="" certificate=""
# The users in the images.
broker_id=1883:1883 monitor_id=10001:10001 grafana_id=472:0

fail() {
    echo "setup.sh: $1" >&2
    exit "${2:-1}"
}

while [ $# -gt 0 ]; do
    case "$1" in
        --help) usage; exit 0 ;;
        --keep-owner) keep_owner=yes ;;
        --user | --certificate)
            [ $# -ge 2 ] || fail "$1 wants a name after it" 2
            [[ $2 =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$ ]] || fail "'$2' is no name: letters, digits, . _ -, 64 at most" 2
            if [ "$1" = --user ]; then user=$2; else certificate=$2; fi
            shift ;;
        -*) fail "there is no option $1; --help shows the use" 2 ;;
        *) hosts+=("$1") ;;
    esac
    shift
done

# certify WORDS...: by certificates.sh
certify() { "$here/../certificates.sh" "$secrets/authority" "$@"; }

# secret FILE: random, where there is none
secret() {
    [ -s "$1" ] || openssl rand -hex 24 >"$1"
}

# hashed NAME PASSWORD: its line of the broker's file. By standard input: an argument could be read by others.
hashed() {
    local folder line
    folder=$(mktemp -d)
    printf '%s:%s\n' "$1" "$2" >"$folder/passwords"
    if command -v mosquitto_passwd >/dev/null; then mosquitto_passwd -U "$folder/passwords" >/dev/null
    elif command -v docker >/dev/null; then
        docker run --rm -i --user "$(id -u):$(id -g)" -v "$folder:/new" "$(image)" mosquitto_passwd -U /new/passwords >/dev/null
    fi
    line=$(<"$folder/passwords")
    rm -rf "$folder"
    # shellcheck disable=SC2016 # the sign itself, with which every hash begins
    [[ $line == "$1:"'$'* ]] || fail "cannot hash a password: install mosquitto_passwd (apt-get install mosquitto), or docker"
    echo "$line"
}

image() { sed -n 's/^ *image: *\(eclipse-mosquitto:.*\)$/\1/p' "$here/../compose.yaml"; }

# let_in NAME PASSWORD: instead of the password that it had
let_in() {
    local line
    line=$(hashed "$1" "$2")
    # Not by a pattern: a dot in a name would be any letter.
    { awk -F: -v name="$1" '$1 != name' "$secrets/mosquitto/passwords"; echo "$line"; } >"$secrets/mosquitto/passwords.new"
    mv "$secrets/mosquitto/passwords.new" "$secrets/mosquitto/passwords"
}

# What is renewed keeps its names; and containers know the broker by the name of its service.
of_the_broker() {
    if [ ${#hosts[@]} -eq 0 ] && [ -e "$secrets/authority/server.crt" ]; then certify
    else certify mosquitto "${hosts[@]:-$(uname -n)}"; fi
    certify --client health
    cp "$secrets"/authority/{ca.crt,ca.crl,server.crt,server.key} "$secrets"/authority/clients/health.{crt,key} "$secrets/mosquitto"
    if [ ! -e "$secrets/mosquitto/acl" ]; then cp "$here/../acl" "$secrets/mosquitto/acl"
    elif ! cmp -s "$here/../acl" "$secrets/mosquitto/acl"; then echo "kept $secrets/mosquitto/acl, which is not the deploy/acl of now"; fi
    touch "$secrets/mosquitto/passwords"
}

of_the_monitor() {
    certify --web "${hosts[@]}"
    cp "$secrets"/authority/{ca.crt,web.crt,web.key} "$secrets/cardiogloss"
    secret "$secrets/cardiogloss/web-token"
    if [ ! -s "$secrets/cardiogloss/mqtt-password" ] || ! grep -q "^cardiogloss:" "$secrets/mosquitto/passwords"; then
        secret "$secrets/cardiogloss/mqtt-password"
        let_in cardiogloss "$(<"$secrets/cardiogloss/mqtt-password")"
    fi
}

# What compose.yaml mounts of the checkout holds no secret, and is read by users of containers: with a umask of 077 it came as its
# owner's alone.
let_read() {
    local deploy=$here/..
    chmod a+r "$here/edge.toml" "$here/mosquitto.conf" "$deploy/mosquitto.conf" "$deploy/prometheus.yml" "$deploy/prometheus-rules.yml"
    chmod -R a+rX "$deploy/grafana"
}

give_away() {
    chmod -R u=rwX,go= "$secrets"
    # Each container reads its own folder through a mount of it alone; root keeps the way there.
    [ -z "$keep_owner" ] || return 0
    chown -R "$broker_id" "$secrets/mosquitto"
    chown -R "$monitor_id" "$secrets/cardiogloss"
    chown -R "$grafana_id" "$secrets/grafana"
}

[ "$user" != cardiogloss ] || fail "cardiogloss is the monitor itself, which has its password" 2
if [ -z "$keep_owner" ] && [ "$(id -u)" -ne 0 ]; then fail "run it with sudo: each container's files are to belong to its user" 2; fi
umask 077
mkdir -p "$secrets"/{authority,mosquitto,cardiogloss,grafana}
of_the_broker
of_the_monitor
secret "$secrets/grafana/admin-password"
if [ -n "$user" ]; then
    password=$(openssl rand -hex 16)
    let_in "$user" "$password"
    echo "user $user, password $password; from the next: docker compose -f deploy/compose.yaml kill -s HUP mosquitto"
fi
if [ -n "$certificate" ]; then
    certify --client "$certificate"
    echo "give the device $secrets/authority/clients/$certificate.{crt,key} and $secrets/authority/ca.crt"
fi
let_read
give_away
echo "the dashboard's token is in $secrets/cardiogloss/web-token, Grafana's password (user admin) in $secrets/grafana/admin-password"
