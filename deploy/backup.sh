#!/usr/bin/env bash
# A running monitor in; one archive of its config, secrets, alerts and history, or the monitor as such an archive has it, out.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: deploy/backup.sh ARCHIVE.tar.gz [--records]
       deploy/backup.sh --restore ARCHIVE.tar.gz

Saves /etc/cardiogloss and /var/lib/cardiogloss while the monitor runs. It stands still for as long as its databases take to be copied
(its devices' bytes wait meanwhile), as nobody else may read the outbox. Every database is opened and checked before it is kept.
The archive holds secrets and what was seen of patients: only its owner can read it; keep it where both are allowed to be.

  --records    the recordings too, which may be large
  --restore    put an archive back; what is there now is moved to /var/lib/cardiogloss.before-restore and /etc/cardiogloss.before-restore
  --root DIR   in this root of another system
  --pid PID    of the monitor, where systemd does not know it
  --help       this text

Exit code: 0 when it is done, 1 when something failed, 2 for wrong use.
TEXT
}

name=cardiogloss archive="" restore="" records="" root="" pid="" work=""

die() { printf 'backup.sh: %s\n' "$*" >&2; exit 1; }
misused() { printf 'backup.sh: %s; --help says how\n' "$*" >&2; exit 2; }
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

while [ $# -gt 0 ]; do
    case "$1" in
        --help) usage; exit 0 ;;
        --records) records=yes ;;
        --restore) restore=yes ;;
        --root | --pid)
            if [ $# -lt 2 ] || [ -z "$2" ]; then misused "$1 wants a value"; fi
            case "$1" in --root) root=$(realpath -- "$2") root=${root%/} ;; --pid) pid=$2 ;; esac
            shift ;;
        -*) misused "unknown word $1" ;;
        *)
            if [ -n "$archive" ]; then misused "one archive at a time"; fi
            archive=$(realpath -m -- "$1") ;;
    esac
    shift
done
config=$root/etc/$name state=$root/var/lib/$name
python=$root/opt/$name/current/bin/python
new="" stopped=""
if [ ! -x "$python" ]; then python=python3; fi

if [ -z "$archive" ]; then misused "name an archive, as in cardiogloss-$(date +%F).tar.gz"; fi
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then die "only root can read the secrets: sudo $0"; fi
case $archive in "$state"/* | "$config"/*) misused "the archive would lie inside of what it saves" ;; esac

finish() {
    go_on
    if [ -n "$stopped" ]; then systemctl start $name.service || true; fi
    rm -rf "${work:?}" "$config.restoring" "$state.restoring"
    if [ -n "$new" ]; then rm -f "$new"; fi
}

# ---- save ----

# Until every thread of it stands: one may be in the middle of a write.
stand_still() {
    local task
    if [ -z "$pid" ] && has_systemd; then pid=$(systemctl show --property MainPID --value $name.service); fi
    if [ -z "$pid" ] || [ "$pid" = 0 ]; then pid=""; return; fi
    kill -STOP "$pid" || die "there is no process $pid"
    for task in /proc/"$pid"/task/*; do
        until grep -qs '^State:[[:space:]]*[TtXZ]' "$task/status" || [ ! -e "$task" ]; do sleep 0.01; done
    done
}

go_on() {
    if [ -n "$pid" ]; then kill -CONT "$pid" 2>/dev/null || true; fi
    pid=""
}

# Databases with what belongs to them.
copy_databases() {
    (cd "$state" && find . -path ./.cache -prune -o '(' -name '*.db' -o -name '*.db-wal' -o -name '*.db-last' ')' -print) | while read -r file; do
        mkdir -p "$work/raw/$(dirname "$file")"
        # As it is, should it be a link: the service's user may write here, and root reads more than that may.
        cp -pP "$state/$file" "$work/raw/$file"
    done
    if [ -n "$(find "$work/raw" ! -type d ! -type f)" ]; then die "there are links among the databases; nothing was saved"; fi
}

# What a copy needs of its write-ahead log is read into it, so that one file is left of each. What is unsound is not kept as if it were.
settle_databases() {
    "$python" - "$work/raw" "$work/var/lib/$name" <<'CODE'
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

raw, kept = map(Path, sys.argv[1:])
for path in sorted(raw.rglob("*.db")):
    to = kept / path.relative_to(raw)
    to.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
        (found,) = copy.execute("PRAGMA integrity_check").fetchone()
    if found != "ok":
        sys.exit(f"{path.name} is damaged: {found}")
for path in raw.rglob("*.db-last"):
    (kept / path.relative_to(raw)).write_bytes(path.read_bytes())
CODE
}

# pack WORDS...: into an archive that is whole or not there. Recordings are readable to the last write, whenever that was: code 1.
pack() {
    new=$(mktemp "$archive.XXXXXX")
    tar -C "$work" -czf "$new" etc var "$@" || [ $? = 1 ] || die "nothing was saved: is $(dirname "$archive") full?"
    sync "$new"
    mv -f "$new" "$archive"
    new=""
}

save() {
    if [ ! -d "$config" ]; then die "there is no $config: is cardiogloss installed here?"; fi
    if [ ! -d "$(dirname "$archive")" ]; then die "there is no folder $(dirname "$archive")"; fi
    mkdir -p "$work/etc" "$work/raw" "$work/var/lib/$name"
    cp -a "$config" "$work/etc/"
    if [ -d "$state" ]; then
        stand_still
        copy_databases
        go_on
        settle_databases || die "nothing was saved"
    fi
    if [ -n "$records" ] && [ -d "$state" ]; then
        pack --warning=no-file-changed -C "$root/" --exclude='*.db' --exclude='*.db-*' --exclude='*/.cache' "var/lib/$name"
    else
        pack
    fi
    echo "saved to $archive ($(du -h "$archive" | cut -f1)), with its secrets"
}

# ---- restore ----

# An outbox from the past would number new alerts as its subscribers have seen old ones, and they would pass over them: under another name
# it is another outbox to them.
rename_outboxes() {
    "$python" - "$work/var/lib/$name" <<'CODE'
import secrets
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

OUTBOX = 0x65636731

for path in Path(sys.argv[1]).rglob("*.db"):
    with closing(sqlite3.connect(path)) as db, db:
        if db.execute("PRAGMA application_id").fetchone()[0] == OUTBOX:
            db.execute("UPDATE outbox SET name = ?", (secrets.token_hex(4),))
            path.with_name(path.name + "-last").unlink(missing_ok=True)
CODE
}

# stage WHAT WHERE: beside it, while what is there goes on
stage() {
    rm -rf "$2.restoring"
    if [ ! -e "$1" ]; then return; fi
    mkdir -p "$(dirname "$2")"
    cp -a "$1" "$2.restoring" || die "$archive does not fit: is the disk full? What was there is untouched"
}

# put_back WHERE: what was staged, in the place of what is there, which is moved beside. One who was interrupted may run it again:
# what was there at first is not thrown away before something else is in its place.
put_back() {
    if [ ! -e "$1.restoring" ]; then return; fi
    if [ -e "$1" ]; then rm -rf "$1.before-restore" && mv -T "$1" "$1.before-restore"; fi
    mv -T "$1.restoring" "$1"
}

restore() {
    if [ ! -f "$archive" ]; then die "there is no archive $archive"; fi
    tar -C "$work" -xzpf "$archive" || die "$archive is no archive of this script"
    if [ ! -d "$work/etc/$name" ]; then die "$archive is no archive of this script: it holds no etc/$name"; fi
    rename_outboxes
    stage "$work/etc/$name" "$config"
    stage "$work/var/lib/$name" "$state"
    # From here to the end at one blow.
    trap '' INT TERM HUP
    if has_systemd; then stopped=yes && { systemctl stop $name.service || true; }; fi
    put_back "$config"
    put_back "$state"
    give_to_service
    stopped=""
    if has_systemd; then systemctl start $name.service || die "it does not start; see: journalctl -u $name"; fi
    echo "restored from $archive; what was there is in $config.before-restore and $state.before-restore"
}

# The user may have another number on this machine.
give_to_service() {
    local user group
    user=$(awk -F: -v name=$name '$1 == name { print $3 }' "$root/etc/passwd" 2>/dev/null || true)
    group=$(awk -F: -v name=$name '$1 == name { print $3 }' "$root/etc/group" 2>/dev/null || true)
    if [ -z "$user" ] || [ -z "$group" ] || [ "$(id -u)" != 0 ]; then return; fi
    chown -R "$user:$group" "$state"
    chmod 700 "$state"
    chown "0:$group" "$config" "$config/edge.toml"
}

umask 077
# On a disk: /tmp may be memory.
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap finish EXIT
trap 'exit 1' INT TERM HUP
if [ -n "$restore" ]; then restore; else save; fi
