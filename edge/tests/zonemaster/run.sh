# Runs in a network and a process namespace of its own, in a folder of the test's ($1), with the edge's program ($2): a
# small internet of one machine. Knot serves the root and the zone above the edge's, the edge serves its own, Zonemaster
# looks at that. Everything ends with this script, since its namespace does.
set -eu
cd "$1"
ip link set lo up
for address in $(cat addresses); do
    case $address in
    *:*) ip addr add "$address/128" dev lo nodad ;;
    *) ip addr add "$address/32" dev lo ;;
    esac
done
# Waits until a log ($2) says something ($1).
said() {
    tries=0
    until grep -q "$1" "$2" 2> /dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 200 ]; then
            cat "$2" >&2
            exit 1
        fi
        sleep 0.1
    done
}
PATH=$PATH:/usr/sbin:/sbin
knotd -c knot.conf > knot.log 2>&1 &
"$2" serve --config edge.toml > edge.log 2>&1 &
said 'server started' knot.log
said 'serving' edge.log
zonemaster-cli --hints hints --level INFO --no-progress --no-time tickets.example
