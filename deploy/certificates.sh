#!/usr/bin/env bash
# A folder and names in; a private certificate authority, and what it signs for broker, dashboard, devices and people, out.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: certificates.sh DIR [HOST...]            the authority, where there is none, and the broker's server.crt, server.key
       certificates.sh DIR --web [HOST...]      the dashboard's web.crt, web.key
       certificates.sh DIR --client NAME        clients/NAME.crt, clients/NAME.key of a device or a viewer
       certificates.sh DIR --revoke NAME        the broker is to refuse what NAME has; a new one may be made after it

HOST is a name or an address by which others reach the machine; localhost is always among them. Without any: the machine's
own name, alone and under .local.

What exists stays, and is signed anew, with the same key, when fewer than 30 days are left; so this may run from a timer.
The authority (ca.crt, ca.key) is never replaced. Keep ca.key where no other machine can read it, best not on the broker's.

  --renew      sign anew although there is time, or for other hosts
  --days N     how long what is signed now is good (default: 825, the most that all browsers take)
  --help       this text

Exit code: 0 done, or nothing to do; 1 openssl failed; 2 wrong use.
TEXT
}

authority_days=3650 days=825 renew_before_s=$((30 * 86400))
folder="" kind=server name="" renew="" hosts=()

fail() {
    echo "certificates.sh: $1" >&2
    exit "${2:-2}"
}

read_words() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --help) usage; exit 0 ;;
            --web) kind=web ;;
            --renew) renew=yes ;;
            --client | --revoke | --days)
                [ $# -ge 2 ] || fail "$1 wants a word after it; --help shows the use"
                case "$1" in
                    --client) kind=client name=$2 ;;
                    --revoke) kind=revoke name=$2 ;;
                    --days) days=$2 ;;
                esac
                shift ;;
            -*) fail "there is no option $1; --help shows the use" ;;
            *) if [ -z "$folder" ]; then folder=$1; else hosts+=("$1"); fi ;;
        esac
        shift
    done
}

check_words() {
    [ -n "$folder" ] || { usage >&2; exit 2; }
    [[ $days =~ ^[1-9][0-9]{0,4}$ ]] || fail "--days wants a number of days, not '$days'"
    case $kind in
        client | revoke)
            [ ${#hosts[@]} -eq 0 ] || fail "a client has no host; leave out ${hosts[*]}"
            # The name is a user of the broker and a level of a topic.
            [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$ ]] || fail "'$name' is no name: letters, digits, . _ -, 64 at most" ;;
        *) for host in "${hosts[@]}"; do san_of "$host" >/dev/null; done ;;
    esac
    command -v openssl >/dev/null || fail "openssl is missing; apt-get install openssl" 1
}

# san_of HOST: as a certificate names it
san_of() {
    if [[ $1 =~ ^[0-9]+(\.[0-9]+){3}$ ]] || [[ $1 =~ ^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$ ]]; then
        echo "IP:$1"
    elif [[ $1 =~ ^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$ ]]; then
        echo "DNS:$1"
    else
        fail "'$1' is neither a host's name nor an address"
    fi
}

make_authority() {
    if [ ! -e "$folder/ca.crt" ] && [ ! -e "$folder/ca.key" ]; then
        quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days "$authority_days" \
            -subj "/O=cardiogloss/CN=cardiogloss authority $(openssl rand -hex 4)" -config "$work/authority.cnf" \
            -keyout "$work/ca.key" -out "$work/ca.crt"
        put "$work/ca.key" 600 "$folder/ca.key"
        put "$work/ca.crt" 644 "$folder/ca.crt"
        echo "made $folder/ca.crt, good for $authority_days days"
    fi
    [ -e "$folder/ca.crt" ] || fail "$folder has ca.key but no ca.crt; bring it back, or begin in another folder"
    [ -e "$folder/ca.key" ] || fail "$folder has ca.crt but no ca.key; run this where the authority's key is kept"
    [ -e "$folder/ca.crl" ] || list_revoked
}

# sign PATH SUBJECT EXTENSIONS: PATH.crt, with PATH.key, which is made where it is missing
sign() {
    if [ -e "$1.key" ]; then cp "$1.key" "$work/key"
    else quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/key"; fi
    quietly openssl req -new -key "$work/key" -subj "$2" -config "$work/authority.cnf" -out "$work/request"
    printf '%s\n' "basicConstraints = critical, CA:FALSE" "keyUsage = critical, digitalSignature" \
        "subjectKeyIdentifier = hash" "authorityKeyIdentifier = keyid" "$3" >"$work/extensions"
    quietly openssl x509 -req -in "$work/request" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -sha256 -days "$days" \
        -set_serial "0x$(openssl rand -hex 15)" -extfile "$work/extensions" -out "$work/crt"
    [ -e "$1.key" ] || put "$work/key" 600 "$1.key"
    put "$work/crt" 644 "$1.crt"
    echo "made $1.crt, good for $days days"
}

# put FILE MODE PATH: whole or not at all
put() {
    chmod "$2" "$1"
    cp -p "$1" "$3.new"
    mv -f "$3.new" "$3"
}

# is_due PATH: whether PATH.crt is to be signed (again)
is_due() {
    if [ -e "$1.crt" ] && [ ! -e "$1.key" ]; then fail "$1.crt has no $1.key beside it; move it away to have a new one"; fi
    if [ ! -e "$1.crt" ]; then return 0; fi
    if ! openssl verify -CAfile "$folder/ca.crt" -partial_chain -no_check_time "$1.crt" >/dev/null 2>&1; then
        fail "$1.crt is not of this authority; it is not overwritten: move it away to have a new one"
    fi
    if [ -n "$renew" ]; then return 0; fi
    if openssl x509 -noout -checkend "$renew_before_s" -in "$1.crt" >/dev/null; then echo "kept $1.crt"; return 1; fi
}

server() {
    local path=$folder/$1 host alternatives
    if [ -e "$path.crt" ] && [ -z "$renew" ]; then
        for host in "${hosts[@]}"; do is_for "$path.crt" "$host"; done
    fi
    if ! is_due "$path"; then return 0; fi
    alternatives=$(alternatives_of "$path.crt")
    sign "$path" "/O=cardiogloss/CN=$1" "$(printf 'extendedKeyUsage = serverAuth\nsubjectAltName = %s' "$alternatives")"
    echo "  for $alternatives"
}

# is_for CERTIFICATE HOST: fails, with a hint, where it is not
is_for() {
    local check=-checkhost
    case $(san_of "$2") in IP:*) check=-checkip ;; esac
    if ! openssl x509 -noout "$check" "$2" -in "$1" | grep -q "does match"; then
        fail "$1 is not for $2; it is not overwritten: add --renew, and name every host again"
    fi
}

# alternatives_of CERTIFICATE: of the hosts that were given, else of the certificate, else of this machine
alternatives_of() {
    local host list="DNS:localhost,IP:127.0.0.1,IP:::1"
    if [ ${#hosts[@]} -eq 0 ] && [ -e "$1" ]; then
        openssl x509 -noout -ext subjectAltName -in "$1" | tail -n 1 | sed 's/ *//; s/IP Address:/IP:/g; s/, /,/g'
        return
    fi
    if [ ${#hosts[@]} -eq 0 ]; then hosts=("$(uname -n)" "$(uname -n).local"); fi
    for host in "${hosts[@]}"; do list+=,$(san_of "$host"); done
    echo "$list"
}

client() {
    mkdir -p "$folder/clients"
    if is_due "$folder/clients/$name"; then sign "$folder/clients/$name" "/O=cardiogloss/CN=$name" "extendedKeyUsage = clientAuth"; fi
}

revoke() {
    local path=$folder/clients/$name
    [ -e "$path.crt" ] || fail "there is no $path.crt to revoke"
    quietly openssl ca -config "$work/authority.cnf" -revoke "$path.crt"
    mkdir -p "$folder/revoked"
    mv "$path.crt" "$folder/revoked/$name-$(openssl x509 -noout -serial -in "$path.crt" | cut -d= -f2).crt"
    rm -f "$path.key"
    list_revoked
    echo "revoked $name: copy $folder/ca.crl to the broker and restart it"
}

list_revoked() {
    touch "$folder/revoked.txt"
    quietly openssl ca -config "$work/authority.cnf" -gencrl -crldays "$authority_days" -out "$work/ca.crl"
    put "$work/ca.crl" 644 "$folder/ca.crl"
}

write_config() {
    cat >"$work/authority.cnf" <<TEXT
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[ca]
default_ca = kept
[kept]
database = $folder/revoked.txt
certificate = $folder/ca.crt
private_key = $folder/ca.key
default_md = sha256
unique_subject = no
TEXT
}

# quietly COMMAND...: what it says only where it fails
quietly() {
    if ! "$@" >"$work/said" 2>&1; then
        cat "$work/said" >&2
        fail "openssl failed; the lines above are its own" 1
    fi
}

read_words "$@"
check_words
umask 077
mkdir -p "$folder" || fail "cannot make $folder" 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
write_config
make_authority
case $kind in
    client) client ;;
    revoke) revoke ;;
    *) server "$kind" ;;
esac
