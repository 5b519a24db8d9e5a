#!/bin/sh
# Runs in a guest as root, in the host's file tree. $1: folder with the release binaries.
# Each step leaves NAME.out, NAME.err and, last, NAME.code in /mnt, which `cargo xtask test-vm` reads.
profiler=$1/profiler

step() {
    name=$1
    shift
    "$@" >"/mnt/$name.out" 2>"/mnt/$name.err" </dev/null
    code=$?
    echo "$code" >"/mnt/$name.code"
    echo "smoke: $name: exit code $code"
}

step uname uname -r
step version cat /proc/version
[ -x "$profiler" ] || exit 0

step doctor "$profiler" doctor --output json

# One busy thread, one that sleeps and one that writes to the disk of 5 ms, past the page cache.
(while :; do :; done) &
(while :; do sleep 0.02; done) &
(while :; do dd if=/dev/zero of=/dev/nullb0 bs=64k count=64 oflag=direct 2>/dev/null; done) &

step record "$profiler" record -d 3s -e cpu,offcpu,io -o /run/out/
for event in cpu offcpu io; do
    step "top-$event" "$profiler" top /run/out/host.capture -e "$event" --output json
done

# A processor that goes and comes back in the middle of a capture. Emulated, the capture takes seconds to begin:
# wait until somebody samples, and note the times.
online=/sys/devices/system/cpu/cpu1/online
sampling() {
    ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q 'anon_inode:.perf_event'
}
if [ -w $online ]; then
    (
        until sampling; do sleep 0.2; done
        sleep 4
        echo 0 >$online
        step hotplug-off date +%s%N
        sleep 1
        echo 1 >$online
        step hotplug-on date +%s%N
    ) &
    toggle=$!
    step hotplug "$profiler" record -d 10s -e cpu -o /run/hotplug.capture
    wait $toggle
    step hotplug-top "$profiler" top /run/hotplug.capture -e cpu --output json
fi
