# Keeps the PostgreSQL that the processes of one test run share, and ends it when none has used it for a while.
#   $1 folder of the shared server   $2 lock that every user of it holds shared   $3 seconds without a user   $4… server
# Users are known by the lock alone: the kernel drops it with the process, however that ends. The lock is held
# exclusively while the server goes down, so nobody can begin to use a server that is about to end.
folder=$1
users=$2
patience=$3
shift 3
"$@" &
server=$!
exec 9>>"$users"
end() {
    rm -f "$folder/server.json"
    # QUIT: PostgreSQL drops everything at once. TERM after it changes nothing there, and ends any other program.
    kill -QUIT "$server" 2>/dev/null
    kill -TERM "$server" 2>/dev/null
    wait "$server"
    exit 0
}
trap end TERM INT
idle=0
while kill -0 "$server" 2>/dev/null; do
    sleep 2 9>&- &
    wait $!
    if flock -n -x 9; then
        idle=$((idle + 2))
        if [ "$idle" -ge "$patience" ]; then
            end
        fi
        flock -u 9
    else
        idle=0
    fi
done
rm -f "$folder/server.json"
