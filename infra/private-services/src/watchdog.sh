# Stops the private servers when their owner is gone, however it went.
#
# $1: the data directory; $2: "keep" or "remove", what to do with it at the end.
# Standard input: a pipe that the owner holds. It writes the pid and start of each process that it started, for the case
# that somebody removes the directory with its pid files. Standard output: the owner's lock file, held until the
# servers are gone so that nobody starts new ones in between.
dir=$1
end=$2
trap '' HUP INT TERM QUIT

# Prints pid $1 if it is still the process that started at $2 (pid_file.rs) and not a zombie.
alive() {
    stat=$(cat "/proc/${1:-none}/stat" 2>/dev/null) || return 0
    set -- "$1" "$2" ${stat##*) }
    [ "$3" != Z ] && [ "${22}" = "$2" ] && echo "$1"
}

# Prints the pid in file $1 if that process still runs.
running() {
    [ -f "$1" ] || return 0
    pid= start=
    read -r pid start <"$1"
    alive "$pid" "$start"
}

# Sends signal $1 to the process of pid file $2, once.
ask() {
    pid=$(running "$2")
    case " $asked " in *" ${pid:-none} "*) return 0 ;; esac
    if [ -n "$pid" ]; then
        kill -s "$1" "$pid"
        asked="$asked $pid"
    fi
}

left() {
    for file in "$dir/postgres/server.pid" "$dir/rabbitmq/server.pid"; do running "$file"; done
}

told=
while read -r pid start; do told="$told $pid $start"; done

asked=
round=0
# At least two rounds: a server that was being started when its owner died writes its pid file a moment later.
while [ "$round" -lt 2 ] || { [ "$round" -lt 50 ] && [ -n "$(left)" ]; }; do
    if [ "$end" = remove ]; then
        # Nobody will read what an ephemeral server would still write.
        for pid in $(left); do kill -s KILL "$pid"; done
    else
        ask INT "$dir/postgres/server.pid"
        ask TERM "$dir/rabbitmq/server.pid"
    fi
    sleep 0.2
    round=$((round + 1))
done
for pid in $(left) $(running "$dir/rabbitmq/epmd.pid"); do kill -s KILL "$pid"; done
set -- $told
while [ $# -ge 2 ]; do
    pid=$(alive "$1" "$2")
    if [ -n "$pid" ]; then kill -s KILL "$pid"; fi
    shift 2
done
for server in postgres rabbitmq; do
    if [ -f "$dir/$server/container" ]; then docker rm --force "$(cat "$dir/$server/container")" >&2; fi
done
if [ "$end" = remove ]; then
    # The orphans of a killed server may still write for a moment.
    for _ in 1 2 3 4 5; do rm -rf -- "$dir" && break; sleep 0.2; done
fi
exit 0
