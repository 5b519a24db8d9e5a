#!/bin/sh
# Runs in a guest as root, in the host's file tree. $1: folder with the release binaries.
# Each step leaves NAME.out, NAME.err and, last, NAME.code in
# /run/results, which `cargo xtask test-vm` reads.
profiler=$1/profiler
results=/run/results

step() {
    name=$1
    shift
    "$@" >"$results/$name.out" 2>"$results/$name.err" </dev/null
    code=$?
    echo "$code" >"$results/$name.code"
    echo "smoke: $name: exit code $code"
}

step uname uname -r
step version cat /proc/version
[ -x "$profiler" ] || exit 0

step doctor "$profiler" doctor --output json

# One busy thread, one that sleeps and one that writes to the disk of 5 ms, past the page cache.
(while :; do :; done) &
busy=$!
(while :; do sleep 0.02; done) &
(while :; do dd if=/dev/zero of=/dev/nullb0 bs=64k count=64 oflag=direct 2>/dev/null; done) &

step record "$profiler" record -d 3s -e cpu,offcpu,io -o /run/out/
for event in cpu offcpu io; do
    step "top-$event" "$profiler" top /run/out/host.capture -e "$event" --output json
done

# Each kind of target: it is decided in the kernel.
target() {
    kind=$1
    shift
    step "$kind" "$profiler" record -d 1s -e cpu,offcpu "$@" -o "/run/$kind.capture"
    for event in cpu offcpu; do
        step "$kind-$event" "$profiler" top "/run/$kind.capture" -e "$event" --output json
    done
}
target pid -p $busy
target comm --comm "$(cat /proc/$busy/comm)"
target cgroup --cgroup /sys/fs/cgroup

# A program without frame pointers, whose stacks are known. From memory: what lies on the host's share is a network file.
deep=${1%/*}/vm/deep
if [ -x "$deep" ]; then
    cp "$deep" /run/deep
    /run/deep 25 >/run/deep.out &
    deep=$!
    step unwind "$profiler" record -d 2s -e cpu -F 199 -p $deep -o /run/unwind.capture
    step unwind-folded "$profiler" folded /run/unwind.capture -e cpu
    kill $deep
fi

# A processor goes and comes back during a capture; then a thread named "returned" runs on it and on no other.
online=/sys/devices/system/cpu/cpu1/online
if [ -w $online ]; then
    cp /bin/sh /run/returned
    cat >/run/hotplug.sh <<EOF
set -e
sleep 1
echo 0 >$online
sleep 1
echo 1 >$online
exec timeout 4 taskset -c 1 /run/returned -c 'while :; do :; done'
EOF
    step hotplug "$profiler" record -e cpu -o /run/hotplug.folded -- /bin/sh /run/hotplug.sh
    step hotplug-folded cat /run/hotplug.folded
fi
