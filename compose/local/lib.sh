# lib.sh - what up, down, reset and status share: where an instance lives, and how its processes are supervised (runit).
# shellcheck shell=bash
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

fail() { echo "$1" >&2; exit "${2:-1}"; }
say() { [ -n "${QUIET:-}" ] || echo "$*"; }

: "${MCPGW_HOME:=$root/var}"
: "${MCPGW_LISTEN:=127.0.0.1:8080}"
# They are for these scripts: the programs refuse variables they do not know.
# shellcheck disable=SC2163
for name in "${!MCPGW_@}"; do export -n "$name"; done
case $MCPGW_HOME in /*) ;; *) MCPGW_HOME=$PWD/$MCPGW_HOME ;; esac

# Everything runs as an unprivileged user, also when root types the command.
if [ "$(id -u)" -eq 0 ]; then
    run_user=${MCPGW_USER:-mcpgw}
else
    run_user=$(id -un)
fi
as_user() { if [ "$(id -u)" -eq 0 ]; then chpst -u "$run_user" "$@"; else "$@"; fi; }

# A socket's path holds 107 characters, so sockets lie in a short directory named after the home.
socket_dir() { printf '%s/mcpgw-%s' "${TMPDIR:-/tmp}" "$(printf '%s' "$1" | sha256sum | cut -c1-12)"; }

# The home as the processes see it (a checkout in /root is closed to them: see make_home in up).
home=$(readlink -f "$MCPGW_HOME" 2>/dev/null || printf '%s' "$MCPGW_HOME")
sockets=$(socket_dir "$home")

pg_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1 || true)

services='edge keys authz ratelimit audit'    # order of stopping: who takes requests first

supervised() { [ -p "$1/supervise/control" ] && [ "$(sv_state "$1")" != none ]; }
sv_state() {    # run | down | none
    local text
    text=$(sv status "$1" 2>/dev/null || true)
    case $text in
        run:*) echo run ;; down:*) echo down ;; finish:*) echo run ;; *) echo none ;;
    esac
}
sv_pid() { cat "$1/supervise/pid" 2>/dev/null || true; }

# Starts the supervisor of one directory, detached from this terminal.
sv_start() {
    if supervised "$1"; then sv up "$1" >/dev/null; return; fi
    setsid runsv "$1" </dev/null 9>&- >>"$home/log/supervisor.log" 2>&1 &
    local i
    for i in $(seq 100); do supervised "$1" && return; sleep 0.05; done
    fail "the supervisor of $1 did not start; see $home/log/supervisor.log"
}
# Stops the process, waits, and ends its supervisor.
sv_stop() {
    supervised "$1" || return 0
    sv -w "${2:-15}" force-stop "$1" >/dev/null 2>&1 || true
    sv exit "$1" >/dev/null 2>&1 || true
    local i
    for i in $(seq 100); do supervised "$1" || return 0; sleep 0.05; done
}
instances() {    # of one service: directories that exist, by number
    local dir
    for dir in "$home"/sv/"$1"-*; do if [ -d "$dir" ]; then printf '%s\n' "${dir##*-}"; fi; done | sort -n
}
