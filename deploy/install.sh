#!/usr/bin/env bash
# A machine with Debian, Ubuntu or JetPack in; the monitor on it as a service, or a newer one in the place of an older, out.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: deploy/install.sh [--wheel FILE] [--wheelhouse DIR] [--extras LIST] [--python PYTHON] [--root DIR]
                         [--worker] [--no-demo] [--no-start] [--dry-run] [--rollback]

Installs cardiogloss from the checkout it stands in, or brings it up to date: run it again. The version before stays beside it, and
is taken back by itself where the new one does not run here, refuses the config that the old one took, or does not start.

  --wheel FILE            install this wheel instead of the checkout
  --wheelhouse DIR        take every package from this folder, and none from the network
  --extras LIST           extras, as in web,plot (default: web, the dashboard; "" for none)
  --python PYTHON         the interpreter, 3.10 or later (default: python3)
  --system-site-packages  let it see the system's packages, as a Jetson does by itself for JetPack's TensorRT
  --root DIR              install into this root of another system, as for an image: nothing is started
  --worker                a score-worker of a fleet instead of a monitor: cardiogloss-worker.service, /etc/cardiogloss/worker.toml
  --no-demo               no recording to look at in a new config: it then waits for a source of yours
  --no-start              install, and start nothing
  --dry-run               say what would be done, and do nothing
  --rollback              go back to the version before
  --help                  this text

  /opt/cardiogloss/VERSION     the program; "current" leads to the one in use      /etc/cardiogloss/edge.toml    the config, never overwritten
  /usr/local/bin/cardiogloss   the command                                         /var/lib/cardiogloss          alerts, history, recordings
  cardiogloss.service          what systemd runs                                   /dev/cardiogloss/             names of USB devices that stay

Exit code: 0 when all is done, 1 when something failed and what was there goes on, 2 for wrong use.
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(dirname "$here")
wheel="" wheelhouse="" extras=web python=python3 root="" demo=yes start=yes dry="" rollback="" site_packages=""
name=cardiogloss
service=$name other=$name-worker config=/etc/$name/edge.toml
work="" built="" fresh="" before="" last=""

say() { printf '%s\n' "$@"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
misused() { printf 'install.sh: %s; --help says how\n' "$*" >&2; exit 2; }

# run COMMAND...: do it, or say that it would be done
run() {
    if [ -n "$dry" ]; then printf 'would run: %s\n' "$*"; else "$@"; fi
}

# put FILE MODE: what comes on standard input, there, root's and readable for the service where the mode lets it
put() {
    if [ -n "$dry" ]; then cat >/dev/null; say "would write: $root$1 ($2)"; return; fi
    mkdir -p "$(dirname "$root$1")"
    (umask 077 && cat >"$root$1.new")
    own "$1.new" "$2"
    mv -f "$root$1.new" "$root$1"
}

# own PATH MODE: root's; the group is the service's where others may not read it
own() {
    local group
    group=$(group_id)
    if [ "$(id -u)" = 0 ] && [ -n "$group" ] && [ $((0$2 % 8)) = 0 ]; then chown "0:$group" "$root$1"; fi
    chmod "$2" "$root$1"
}

# The number of the group as the system under $root has it; empty where there is none.
group_id() { awk -F: -v name=$name '$1 == name { print $3 }' "$root/etc/group" 2>/dev/null || true; }
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
is_jetson() { [ -e "$root/etc/nv_tegra_release" ] || grep -qs nvidia,tegra "$root/proc/device-tree/compatible"; }

read_words() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --help) usage; exit 0 ;;
            --worker) become_worker ;;
            --no-demo) demo="" ;;
            --no-start) start="" ;;
            --dry-run) dry=yes ;;
            --rollback) rollback=yes ;;
            --system-site-packages) site_packages=yes ;;
            --wheel | --wheelhouse | --extras | --python | --root)
                if [ $# -lt 2 ]; then misused "$1 wants a value"; fi
                take "$1" "$2"
                shift ;;
            *) misused "unknown word $1" ;;
        esac
        shift
    done
}

take() {
    case "$1" in
        --wheel) wheel=$(realpath -m -- "$2") ;;
        --wheelhouse) wheelhouse=$(realpath -m -- "$2") ;;
        --extras) extras=$2 ;;
        --python) python=$2 ;;
        --root) root=$(realpath -m -- "$2"); root=${root%/} ;;
    esac
}

become_worker() { service=$name-worker other=$name config=/etc/$name/worker.toml demo=""; }

check_words() {
    # A machine that only scores is brought up to date as such.
    if [ ! -e "$root/etc/$name/edge.toml" ] && [ -e "$root/etc/$name/worker.toml" ]; then become_worker; fi
    if [ -z "$python" ]; then misused "--python wants a value"; fi
    if [ -n "$wheel" ] && [ ! -f "$wheel" ]; then misused "there is no wheel $wheel"; fi
    if [ -n "$wheelhouse" ] && [ ! -d "$wheelhouse" ]; then misused "there is no folder $wheelhouse"; fi
    if [ -n "$root" ] && [ ! -d "$root" ]; then misused "there is no folder $root; make it, or unpack the system there"; fi
    if [[ ! $extras =~ ^[a-z,]*$ ]]; then misused "--extras $extras must be names with commas between, as in web,plot"; fi
    if [ -z "$root" ] && [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then
        die "only root can install a service: sudo $0 (or look first: $0 --dry-run)"
    fi
}

# Two at once would each take the other's version for what is left over. The folder is locked as it is: no file is left.
alone() {
    if [ -n "$dry" ]; then return; fi
    exec 9<"${root:-/}"
    # What was cut off just now may take a moment to die.
    flock --timeout 2 9 || die "another install.sh is at work here: wait for its end, then run this again"
}

# ---- the interpreter ----

check_python() {
    if ! command -v "$python" >/dev/null; then need_package "$python" python3 python3-venv; fi
    if [ -n "$dry" ] && ! command -v "$python" >/dev/null; then return; fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        die "$("$python" --version) is too old: 3.10 or later is needed (Ubuntu 22.04, Debian 12 and JetPack 6 have it); name one with --python"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        need_package "the module venv of $python" "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
}

# need_package WHAT PACKAGE...: from the distribution, where it can be had
need_package() {
    local what=$1
    shift
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then die "$what is missing: install $*, then run this again"; fi
    say "$what is missing: installing $*"
    if [ -n "$dry" ]; then run apt-get install --yes "$@"; return; fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get install --yes --no-install-recommends -qq "$@" >/dev/null 2>&1 \
        || { apt-get update -qq && apt-get install --yes --no-install-recommends -qq "$@" >/dev/null; } \
        || die "$* could not be installed: mend what apt-get says above, or install it from the installation medium, then run this again"
}

# ---- user ----

make_user() {
    local tool=(--system --home-dir "/var/lib/$name" --no-create-home --shell /usr/sbin/nologin) inside=()
    if [ -n "$root" ]; then inside=(--prefix "$root"); fi
    if [ ! -e "$root/etc/passwd" ]; then say "no /etc/passwd under $root: make the system user $name there"; return; fi
    if [ "$(id -u)" != 0 ] && [ -z "$dry" ]; then say "not root: make the system user $name under $root"; return; fi
    if [ -n "$(group_id)" ]; then tool+=(--gid "$name"); else tool+=(--user-group); fi
    if ! grep -q "^$name:" "$root/etc/passwd"; then run useradd "${inside[@]}" "${tool[@]}" $name; fi
    for group in dialout plugdev video render; do
        # serial ports; USB; the GPU of a Jetson, by two names
        if grep -q "^$group:" "$root/etc/group"; then run usermod "${inside[@]}" --append --groups $group $name; fi
    done
}

# ---- the program, in a folder of its own ----

build_wheel() {
    if [ -n "$wheel" ]; then return; fi
    if [ ! -f "$checkout/pyproject.toml" ]; then die "there is no checkout around $here: name a wheel with --wheel"; fi
    say "building the wheel"
    if [ -n "$dry" ]; then return; fi
    # Elsewhere: a checkout is left as it is.
    mkdir "$work/source" "$work/build"
    (cd "$checkout" && cp -R pyproject.toml README.md LICENSE edge kernels trainer "$work/source")
    "$python" -m venv "$work/venv" || die "no virtual environment could be made with $python: is the disk full?"
    pip_of "$work/venv" wheel --no-deps --wheel-dir "$work/build" "$work/source" || die "$(pip_failed "the wheel could not be built")"
    built=$(echo "$work"/build/*.whl)
}

# As the name of the wheel has it; of the checkout, where that is not built.
version() {
    if [ -n "$wheel" ]; then basename "$wheel" | cut -d- -f2; else sed -n 's/^version = "\(.*\)"/\1/p' "$checkout/pyproject.toml"; fi
}

# pip_of VENV WORDS...: never asks, never writes outside, takes nothing from the network where a wheelhouse is given
pip_of() {
    local venv=$1 verb=$2 from=()
    shift 2
    if [ -n "$wheelhouse" ]; then from=(--no-index --find-links "$wheelhouse"); fi
    "$venv/bin/python" -m pip "$verb" --quiet --no-input --disable-pip-version-check "${from[@]}" "$@"
}

pip_failed() {
    local what="$1; what was there is untouched."
    if [ -n "$wheelhouse" ]; then
        say "$what Fill the folder on a machine of the same kind: pip download -d DIR '$(wanted)' 'setuptools>=77'"
    else
        say "$what pip says why, above: a full disk, or no network, without which --wheelhouse DIR gives the packages"
    fi
}

# What is asked for, as pip has it.
wanted() { printf '%s%s' "${wheel:-$checkout}" "${extras:+[$extras]}"; }

# The first folder that is free: a version may be installed over itself.
free_folder() {
    local version=$1 number=2 folder=$1
    while [ -e "$root/opt/$name/$folder" ]; do folder=$version-$number number=$((number + 1)); done
    say "$folder"
}

build_program() {
    local options=()
    if [ -n "$site_packages" ] || is_jetson; then options=(--system-site-packages); fi
    say "installing $(wanted) into /opt/$name/$fresh"
    if [ -n "$dry" ]; then return; fi
    mkdir -p "$root/opt/$name"
    "$python" -m venv "${options[@]}" "$root/opt/$name/$fresh" || die "no virtual environment could be made with $python: is the disk full?"
    pip_of "$root/opt/$name/$fresh" install "${built:-$wheel}${extras:+[$extras]}" || die "$(pip_failed "the packages could not be installed")"
    relocate "$root/opt/$name/$fresh"
    share "$root/opt/$name/$fresh/share/$name"
}

# Under another root, the scripts must name the path they will have there.
relocate() {
    if [ -z "$root" ]; then return; fi
    grep -rlIF "$root/opt/$name/" "$1/bin" "$1/pyvenv.cfg" | while read -r script; do sed -i "s|$root/opt/$name/|/opt/$name/|g" "$script"; done
}

# What the config and the notes speak of, and what systemd and udev get of this version: going back brings that back, too.
# Never with the modes of the checkout, which may be its owner's alone: the service's user reads it.
share() {
    install -d -m 755 "$1/system"
    install -m 644 "$here/edge.toml" "$1"
    install -m 644 "$here/$name.service" "$here/$name-worker.service" "$here/99-$name.rules" "$here/jetson/$name-gpu.conf" "$1/system"
    if ! has_recording; then return; fi
    install -m 644 "$checkout"/tests/data/mitdb201af.{hea,dat} "$1"
    demo_unit >"$1/system/$name-demo.service"
}

has_recording() { [ -f "$checkout/tests/data/mitdb201af.hea" ]; }

# One window through the model, from elsewhere: a checkout in the current folder would be taken for the program.
runs() {
    (cd / && "$1/bin/python" - <<'CODE'
import numpy as np

import edge.__main__
import edge.daemon
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import open_engine

bundle = Bundle.read(SHIPPED_BUNDLE)
with open_engine(bundle) as engine:
    probability = engine.run(np.zeros((1, 12, bundle.card.samples), np.float32)).probability
assert np.isfinite(probability).all(), probability
CODE
    )
}

takes_config() {
    if [ "$service" = $name ]; then (cd / && "$1/bin/python" -m edge check "$root$config" 2>&1); return; fi
    (cd / && "$1/bin/python" - "$root$config" 2>&1 <<'CODE'
import sys
from pathlib import Path

from edge.fleet.settings import read_settings
from kernels.findings import ConfigError

try:
    read_settings(Path(sys.argv[1]))
except ConfigError as error:
    sys.exit(str(error))
CODE
    )
}

# A new program must run here, and take the config that the one before it took.
try_program() {
    local new=$root/opt/$name/$fresh old=$root/opt/$name/current
    if [ -n "$dry" ]; then say "would try: one window through the model, and the config"; return; fi
    runs "$new" >"$work/run" 2>&1 || { cat "$work/run" >&2; die "the new version does not run on this machine (above); $(kept)"; }
    if [ ! -e "$old" ] || [ ! -e "$root$config" ]; then return; fi
    takes_config "$new" >"$work/check" || if takes_config "$old" >/dev/null; then
        cat "$work/check" >&2
        die "the new version refuses the config that the old one takes (above); $(kept) Mend the config for it, and run this again"
    fi
}

kept() {
    if [ -e "$root/opt/$name/current" ]; then
        say "the version before, $(readlink "$root/opt/$name/current"), is still in use."
    else
        say "nothing is installed."
    fi
}

# ---- what is around it ----

first_worker_config() {
    local engine="onnx"
    if is_jetson; then engine="tensorrt"; fi
    cat <<TEXT
# Whose windows this machine scores. Every table and key there is: /opt/cardiogloss/current/share/cardiogloss/edge.toml
# After a change:  sudo systemctl restart cardiogloss-worker

# site = "home"                      # left out: the windows of all sites

[model]
engine = "$engine"

# The broker, which must speak MQTT 5. The password: /etc/cardiogloss/credentials/mqtt-password
[mqtt]
host = "localhost"
# tls = true
# ca = "/etc/cardiogloss/ca.crt"
# user = "worker"
# password_file = "/run/credentials/cardiogloss-worker.service/mqtt-password"

# /metrics, /healthz, /readyz
[http]
host = "127.0.0.1"
port = 9465
TEXT
}

first_config() {
    local model="" recording="#"
    if is_jetson; then
        model='engine = "tensorrt"                  # made for this board at the first start, which takes minutes; onnx where it is not to be had'
    fi
    if [ -n "$demo" ] && has_recording; then recording=""; fi
    cat <<TEXT
# What this monitor watches. Every table and key there is: /opt/cardiogloss/current/share/cardiogloss/edge.toml
# After a change:  sudo cardiogloss check /etc/cardiogloss/edge.toml && sudo systemctl reload cardiogloss

site = "home"                        # a level of every topic that goes out: cardiogloss/home/...

[model]
${model:-# engine = "onnx"}

# /metrics, /healthz, /readyz, /alerts
[http]
host = "127.0.0.1"
port = 9464

TEXT
    if [[ ,$extras, == *,web,* ]]; then
        cat <<'TEXT'
# The dashboard: http://localhost:8080. From another machine: ssh -L 8080:localhost:8080 THIS_MACHINE, or host = "0.0.0.0" and the
# lines behind the #, without which it would not start; the files: /etc/cardiogloss/credentials/web-token, web-certificate, web-key.
[web]
host = "127.0.0.1"
port = 8080
# token_file = "/run/credentials/cardiogloss.service/web-token"
# certificate = "/run/credentials/cardiogloss.service/web-certificate"
# key = "/run/credentials/cardiogloss.service/web-key"

TEXT
    fi
    cat <<TEXT
# A broker, where devices send to one or others are to hear of alerts. The password: /etc/cardiogloss/credentials/mqtt-password
# [mqtt]
# host = "localhost"
# user = "cardiogloss"
# password_file = "/run/credentials/cardiogloss.service/mqtt-password"

# NO PATIENT: a recording of one with atrial fibrillation (MIT-BIH Arrhythmia Database, record 201, ODC-By 1.0), sent over and over by
# cardiogloss-demo.service, so that there is something to see. Without it: take these lines out, name a source of yours below, and
# sudo systemctl disable --now cardiogloss-demo && sudo systemctl reload cardiogloss
${recording}[[source]]
${recording}name = "demo-recording"
${recording}device = "frame"
${recording}serial = "/run/cardiogloss-demo/device"

# A device on USB. Its name stays the same whatever is plugged in when: ls /dev/cardiogloss; every kind: cardiogloss devices
# [[source]]
# name = "bed1"
# device = "cyton"
# serial = "/dev/cardiogloss/ft231x-DM00Q0QN"
# leads = ["I", "II", "-", "-", "-", "-", "-", "-"]

# Devices that send to the broker; bed7 on the topic cardiogloss/home/bed7/ecg is the source bed7.
# [[source]]
# mqtt = "cardiogloss/home/+/ecg"
TEXT
}

demo_unit() {
    cat <<'TEXT'
# A recording, sent over a pseudo-terminal as a device would. No patient is here.

[Unit]
Description=A recording for cardiogloss to show, until a device is there
PartOf=cardiogloss.service
Before=cardiogloss.service
StartLimitIntervalSec=0

[Service]
User=cardiogloss
Group=cardiogloss
RuntimeDirectory=cardiogloss-demo
ExecStart=/opt/cardiogloss/current/bin/cardiogloss simulate /opt/cardiogloss/current/share/cardiogloss/mitdb201af \
    --device frame --link /run/cardiogloss-demo/device --repeat
StandardOutput=null
Restart=always
RestartSec=5
MemoryMax=256M
TasksMax=32
DevicePolicy=closed
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
PrivateTmp=yes
PrivateNetwork=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077

[Install]
WantedBy=cardiogloss.service
TEXT
}

# place_files VERSION: what that brought for systemd and udev, in the place of what is there
place_files() {
    local kept=$root/opt/$name/$1/share/$name/system units=/etc/systemd/system unit
    for unit in "$name" "$name-worker" "$name-demo"; do place "$kept/$unit.service" "$units/$unit.service"; done
    place "$kept/99-$name.rules" "/etc/udev/rules.d/99-$name.rules"
    for unit in "$name" "$name-worker"; do
        if is_jetson; then place "$kept/$name-gpu.conf" "$units/$unit.service.d/gpu.conf"; fi
    done
    if waits_for_reload; then
        # Reloading returns when the config has been read, not when it has been asked for: systemd 253 and later.
        printf '[Service]\nType=notify-reload\nExecReload=\n' | put /etc/systemd/system/$name.service.d/reload.conf 644
    fi
    if has_systemd; then run systemctl daemon-reload; fi
    if has_systemd && [ -S /run/udev/control ]; then
        run udevadm control --reload
        run udevadm trigger --action=change --subsystem-match=tty --subsystem-match=usb-serial
    fi
}

# place FILE WHERE: an older version, or one without a recording, has not all of them
place() {
    if [ -n "$dry" ]; then say "would write: $root$2 (644)"; elif [ -f "$1" ]; then put "$2" 644 <"$1"; fi
}

make_folders() {
    run mkdir -p "$root/etc/$name/credentials" "$root/usr/local/bin"
    if [ -z "$dry" ]; then own /etc/$name 750; chmod 700 "$root/etc/$name/credentials"; fi
    run ln -sfn /opt/$name/current/bin/$name "$root/usr/local/bin/$name"
}

waits_for_reload() {
    has_systemd && [ "$(systemctl --version | awk 'NR == 1 { print int($2) }')" -ge 253 ]
}

place_config() {
    if [ -e "$root$config" ]; then say "the config $config stays as it is"; return; fi
    if [ "$service" = $name ]; then first_config; else first_worker_config; fi | put "$config" 640
}

# point LINK FOLDER: at one blow, so that no start ever finds nothing
point() { run ln -sfn "$2" "$root/opt/$name/$1.new" && run mv -fT "$root/opt/$name/$1.new" "$root/opt/$name/$1"; }
points_to() { readlink "$root/opt/$name/$1" 2>/dev/null || true; }

prune() {
    local folder
    for folder in "$root/opt/$name"/*; do
        case $(basename "$folder") in
            current | previous | "$(points_to current)" | "$(points_to previous)" | "*") ;;
            *) run rm -rf "$folder" ;;
        esac
    done
}

# ---- the service ----

# Once: whoever has disabled it since does not find it enabled by an upgrade. Before there is a config, so that one who was
# interrupted in between finds it enabled by the next run.
enable_service() {
    if [ -n "$before" ] && [ -e "$root$config" ]; then return; fi
    enable $service.service multi-user.target
    if [ -n "$demo" ] && has_recording && [ ! -e "$root$config" ]; then enable $name-demo.service $name.service; fi
}

# enable UNIT WANTED_BY: as `systemctl enable` would, where the system is not running
enable() {
    local wants=$root/etc/systemd/system/$2.wants
    if has_systemd; then run systemctl enable --quiet "$1"; return; fi
    run mkdir -p "$wants"
    run ln -sfn "/etc/systemd/system/$1" "$wants/$1"
}

# Whether there is anything to watch; why not, where there is not.
can_watch() {
    if [ -n "$dry" ] || takes_config "$root/opt/$name/current" >"$work/check"; then return 0; fi
    cat "$work/check"
    say "not started: mend $config, then: sudo systemctl start $service"
    return 1
}

# A new one that does not come up gives its place back to the version before.
start_service() {
    if [ -z "$start" ] || ! has_systemd; then say "started: no. Start it with: systemctl start $service"; return; fi
    # What else runs here has the new version, too: the one before the last is about to go.
    run systemctl try-restart $other.service || say "$other does not start; see: journalctl -u $other"
    if ! can_watch; then return; fi
    say "starting; an engine that is made for this machine first may take minutes"
    if run systemctl restart $service.service; then return; fi
    journalctl --sync 2>/dev/null || true
    journalctl --unit $service --lines 15 --no-pager --output cat 2>/dev/null >&2 || true
    if [ -z "$before" ]; then die "it does not start (above); mend it, then: sudo systemctl start $service"; fi
    take_back
    die "the new version does not start (above); $before runs again"
}

take_back() {
    place_files "$before"
    point current "$before"
    if [ -n "$last" ]; then point previous "$last"; else rm -f "/opt/$name/previous"; fi
    systemctl try-restart $other.service || true
    systemctl restart $service.service || die "neither the new version nor $before starts (above); see: journalctl -u $service"
}

report() {
    if [ -n "$dry" ]; then say "nothing was done"; return; fi
    say "" "cardiogloss $(points_to current) is installed."
    if has_systemd && [ -n "$start" ]; then systemctl --no-pager --lines 0 status $service.service | sed -n 1,3p || true; fi
    if grep -qs '^\[web\]' "$root$config"; then say "dashboard: http://localhost:8080"; fi
    say "log:       journalctl -u $service -f" "config:    $config" "go back:   $0 --rollback"
}

go_back() {
    local now before
    now=$(points_to current) before=$(points_to previous)
    if [ -z "$before" ] || [ ! -d "$root/opt/$name/$before" ]; then die "there is no version before this one to go back to"; fi
    place_files "$before"
    point current "$before"
    point previous "$now"
    say "back to $before; $now stays, and --rollback again returns to it"
    if ! has_systemd || [ -z "$start" ]; then return; fi
    run systemctl try-restart $other.service || say "$other does not start; see: journalctl -u $other"
    run systemctl restart $service.service || die "$before does not start; see: journalctl -u $service (--rollback returns to $now)"
}

finish() {
    local code=$?
    if [ -n "$work" ]; then rm -rf "$work"; fi
    # What was not taken into use is not left lying about.
    if [ "$code" != 0 ] && [ -n "$fresh" ] && [ "$(points_to current)" != "$fresh" ]; then rm -rf "$root/opt/$name/$fresh"; fi
}

main() {
    read_words "$@"
    check_words
    # The service's user reads the program, whatever root's umask is.
    umask 022
    work=$(mktemp -d)
    trap finish EXIT
    trap 'exit 1' INT TERM HUP
    alone
    if [ -n "$rollback" ]; then go_back; exit; fi
    check_python
    make_user
    build_wheel
    fresh=$(free_folder "$(version)")
    build_program
    try_program
    before=$(points_to current) last=$(points_to previous)
    place_files "$fresh"
    make_folders
    enable_service
    place_config
    # A board loses its power at any time: the link must not reach the disk before what it leads to.
    if [ -z "$root" ]; then run sync --file-system /opt/$name; fi
    point current "$fresh"
    if [ -n "$before" ]; then point previous "$before"; fi
    start_service
    prune
    report
}

main "$@"
