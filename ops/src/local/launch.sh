# Runs a command ($2…) that can be found again: this process first writes down, in the file $1, which boot and which
# process it is (/proc/self/stat carries pid and start time), then becomes the command. So there is no moment at which
# the command runs and is not written down, whatever happens to whoever started it.
set -eu
record=$1
shift
{ cat /proc/sys/kernel/random/boot_id; cat "/proc/$$/stat"; } > "$record.new"
mv "$record.new" "$record"
exec "$@"
