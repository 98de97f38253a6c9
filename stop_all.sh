#!/usr/bin/env bash
# Stop every process of EMTE that works in this var/, and nobody else.
#
# Processes are found by their pid files, var/run/NAME.pid. A process id may have passed to somebody
# else since, so the command line has to be that of the program NAME says, working in this var/.
# First go those that would start others again; robots, web app, matching servers and log2db follow
# in the order in which one feeds the next. Each gets SIGTERM, and SIGKILL if it is still there after
# 5 seconds; a matching server, which takes a last snapshot, after 25; serve and demo, who first end
# their children one group after the other, after 60.

set -u

usage() {
    cat <<'END'
usage: bash stop_all.sh [-h]

Stop all processes of EMTE that work in var/ (of the folder that this script is in; $EMTE_VAR, or
emte.toml in the current folder, name another). Exit code 0, also when nothing runs; 1 if a process
cannot be stopped.

examples:
  bash stop_all.sh
  EMTE_VAR=/srv/emte bash stop_all.sh
END
}

case "${1-}" in
    "") ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
var=${EMTE_VAR-}
if [ -z "$var" ] && [ -f emte.toml ]; then
    var=$(sed -n 's/^[[:space:]]*var[[:space:]]*=[[:space:]]*["'\'']\([^"'\'']*\)["'\''].*/\1/p' emte.toml | head -n 1)
fi
var=${var:-$here/var}
[ -d "$var" ] && var=$(cd "$var" && pwd)
run=$var/run

# The command line of process $1, a word a line; nothing if there is no such process.
words_of() {
    if [ -e /proc/self/cmdline ]; then
        tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline"
    else
        ps -ww -o args= -p "$1" | sed 's,^.*/\([Pp]ython[^ /]*\) ,\1 ,' | tr ' ' '\n'
    fi 2>/dev/null
}

# The var/ that process $1 was told to work in, by --var in its words ($2) or by $EMTE_VAR.
var_of() {
    local told
    told=$(sed -n -e '/^--var$/{n;p;}' -e 's/^--var=//p' <<<"$2" | head -n 1)
    if [ -z "$told" ] && [ -r "/proc/$1/environ" ]; then
        told=$(tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | sed -n 's/^EMTE_VAR=//p' | head -n 1)
    fi
    [ -d "$told" ] && told=$(cd "$told" && pwd)
    printf '%s' "$told"
}

# Whether process $1 is the program that the pid file's name $2 says, in this var/.
is_ours() {
    local module script command words word state told
    case "$2" in
        serve) module=scripts.serve script=serve.py command=emte-serve ;;
        demo) module=scripts.demo script=demo.py command=emte-demo ;;
        web | web-*) module=app.webserver script=webserver.py command=emte-web ;;
        match-*) module=matching.matchingserver script=matchingserver.py command=emte-match ;;
        log2db-*) module=log2db script=log2db command=emte-log2db ;;
        robot-*) module=robot.robot_trader script=robot_trader.py command=emte-robot ;;
        *) return 1 ;;
    esac
    words=$(words_of "$1")
    state=interpreter
    while IFS= read -r word; do
        case "$state:$word" in
            interpreter:*[Pp]ython* | interpreter:*pypy*) state=option ;;
            option:-m) state=module ;;
            option:-X | option:-W) state=value ;;
            option:-*) ;;
            value:*) state=option ;;
            module:"$module") state=ours ;;
            option:"$script" | option:*/"$script" | option:*/"$command") state=ours ;;
            option:*/"$script"/__main__.py | option:"$script"/__main__.py) state=ours ;;
            *) break ;;
        esac
        [ "$state" = ours ] && break
    done <<<"$words"
    [ "$state" = ours ] || return 1
    told=$(var_of "$1" "$words")
    case "$told" in
        /*) [ "$told" = "$var" ] ;;
        *) return 0 ;;
    esac
}

found=0
failed=0

# Stop the processes whose pid files match the patterns $2…; $1 is how many seconds they may take.
stop() {
    local seconds=$1 pattern file name pid end entry
    local asked=()
    shift
    for pattern in "$@"; do
        for file in "$run"/$pattern.pid; do
            [ -f "$file" ] || continue
            name=$(basename "$file" .pid)
            pid=""
            read -r pid <"$file"
            case "$pid" in "" | *[!0-9]* | 0* | 1) pid="" ;; esac
            if [ -z "$pid" ] || ! is_ours "$pid" "$name"; then
                rm -f "$file"
                [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null &&
                    echo "$name has ended; its process id $pid is another program's now: left alone"
                continue
            fi
            found=1
            if kill -TERM "$pid" 2>/dev/null; then
                asked+=("$pid:$name")
            elif is_ours "$pid" "$name"; then
                echo "$name (pid $pid) cannot be stopped: it is another user's" >&2
                failed=1
            fi
        done
    done
    end=$((SECONDS + seconds))
    for entry in ${asked[@]+"${asked[@]}"}; do
        pid=${entry%%:*} name=${entry#*:}
        while is_ours "$pid" "$name" && [ "$SECONDS" -le "$end" ]; do
            sleep 0.1
        done
        if is_ours "$pid" "$name"; then
            kill -KILL "$pid" 2>/dev/null
            echo "killed $name (pid $pid): it did not end within $seconds seconds"
        else
            echo "stopped $name (pid $pid)"
        fi
        [ "$(head -n 1 "$run/$name.pid" 2>/dev/null)" = "$pid" ] && rm -f "$run/$name.pid"
    done
}

stop 60 serve demo
stop 5 'robot-*'
stop 5 web 'web-*'
stop 25 'match-*'
stop 5 'log2db-*'

[ "$found" = 1 ] || echo "nothing of EMTE runs in $var"
exit "$failed"
