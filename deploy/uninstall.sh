#!/usr/bin/env bash
# A machine with the monitor on it in; the same without it, its config and what it kept left alone unless told otherwise, out.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: deploy/uninstall.sh [--purge] [--root DIR] [--dry-run]

Stops and removes what deploy/install.sh put here: the service, the udev rules, the program and the command.

  --purge      the config, the secrets, the alerts, the history, the recordings and the user as well: there is no way back
  --root DIR   in this root of another system
  --dry-run    say what would be done, and do nothing
  --help       this text

Exit code: 0 when all is gone, 1 when something failed, 2 for wrong use.
TEXT
}

name=cardiogloss purge="" root="" dry=""
config=/etc/$name state=/var/lib/$name cache=/var/cache/$name

die() { printf 'uninstall.sh: %s\n' "$*" >&2; exit 1; }
misused() { printf 'uninstall.sh: %s; --help says how\n' "$*" >&2; exit 2; }
run() { if [ -n "$dry" ]; then printf 'would run: %s\n' "$*"; else "$@"; fi; }
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

while [ $# -gt 0 ]; do
    case "$1" in
        --help) usage; exit 0 ;;
        --purge) purge=yes ;;
        --dry-run) dry=yes ;;
        --root)
            if [ $# -lt 2 ] || [ ! -d "$2" ]; then misused "--root wants a folder that is there"; fi
            root=$(realpath -- "$2") root=${root%/}
            shift ;;
        *) misused "unknown word $1" ;;
    esac
    shift
done
if [ -z "$root" ] && [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then die "only root can remove a service: sudo $0 (or look first: $0 --dry-run)"; fi

# remove PATH...: what is there of them
remove() {
    local path
    for path in "$@"; do
        if [ -e "$root$path" ] || [ -L "$root$path" ]; then run rm -rf "$root$path"; fi
    done
}

stop_service() {
    local unit
    if ! has_systemd; then return; fi
    for unit in $name.service $name-worker.service $name-demo.service; do
        if [ -e "/etc/systemd/system/$unit" ]; then run systemctl disable --now --quiet "$unit"; fi
    done
}

remove_user() {
    local inside=()
    if [ -n "$root" ]; then inside=(--prefix "$root"); fi
    if ! grep -qs "^$name:" "$root/etc/passwd"; then return; fi
    if [ "$(id -u)" != 0 ] && [ -z "$dry" ]; then return; fi
    run userdel "${inside[@]}" $name
    # Whether its group goes with it depends on the system's settings.
    if grep -qs "^$name:" "$root/etc/group"; then run groupdel "${inside[@]}" $name 2>/dev/null || true; fi
}

tell_kept() {
    local path
    for path in $config $state; do
        if [ -e "$root$path" ]; then echo "kept: $path"; fi
    done
    if grep -qs "^$name:" "$root/etc/passwd"; then echo "kept: the user $name, whose files these are"; fi
    echo "all of it goes with: $0 --purge"
}

# A link that leads elsewhere is somebody else's.
is_ours() { [ "$(readlink "$root/usr/local/bin/$name" 2>/dev/null)" = "/opt/$name/current/bin/$name" ]; }

units=/etc/systemd/system
stop_service
for unit in "$name" "$name-worker" "$name-demo"; do
    remove "$units/$unit.service" "$units/$unit.service.wants" "$units/multi-user.target.wants/$unit.service" \
        "$units/$unit.service.d/gpu.conf" "$units/$unit.service.d/reload.conf"
done
remove /etc/udev/rules.d/99-$name.rules
if is_ours; then remove /usr/local/bin/$name; fi
remove /opt/$name $cache
if [ -n "$purge" ]; then
    remove $config $state $config.before-restore $state.before-restore $units/$name.service.d $units/$name-worker.service.d
    remove_user
fi
for unit in "$name" "$name-worker"; do
    run rmdir --ignore-fail-on-non-empty "$root$units/$unit.service.d" 2>/dev/null || true
done
if has_systemd; then
    run systemctl daemon-reload
    run systemctl reset-failed $name.service $name-worker.service $name-demo.service 2>/dev/null || true
    if [ -S /run/udev/control ]; then run udevadm control --reload; fi
fi
if [ -n "$dry" ]; then echo "nothing was done"; exit; fi
echo "cardiogloss is gone from this machine"
if [ -z "$purge" ]; then tell_kept; fi
