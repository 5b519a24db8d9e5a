#!/bin/busybox sh
# First process of a guest: mounts, loads modules, then runs /smoke.sh in the host's file tree.
# @RELEASE@ is the folder with the binaries to try. What is found goes to the share "results".
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in /modules/*.ko; do
    case $module in
    # One disk of 1 GiB whose every request takes 5 ms, by a timer.
    *null_blk.ko) insmod "$module" irqmode=2 completion_nsec=5000000 gb=1 ;;
    *) insmod "$module" ;;
    esac || echo "insmod $module failed"
done
mount -t tracefs none /sys/kernel/tracing
mount -t debugfs none /sys/kernel/debug
mount -t bpf none /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $options,ro,cache=loose host /host || echo "no share host"
for folder in proc sys dev; do mount --rbind /$folder /host/$folder; done
# The one place that can be written; what lies below the host's /run is hidden.
mount -t tmpfs none /host/run
mkdir /host/run/results
mount -t 9p -o $options results /host/run/results || echo "no share results"
cp /smoke.sh /host/run/smoke.sh
HOME=/run TMPDIR=/run PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot /host /bin/sh /run/smoke.sh "@RELEASE@"
sync
poweroff -f
