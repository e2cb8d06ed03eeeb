#!/bin/sh
# Boots systemd as pid 1 of namespaces of its own: boot.sh ROOT CONSOLE [FROM TO]..., on what tests/support/systemd/machine.py
# has unpacked. Nothing is written to ROOT. What is at FROM is seen at TO, a place that is in ROOT, and cannot be written
# either. Ends when systemd does, or when its standard input is closed, and leaves no process, mount or cgroup behind. The
# first thing on its standard output is the pid of systemd.
set -eu
root=$1 console=$2

clean() {
    [ ! "$namespaces" ] || kill -KILL "$namespaces" 2>/dev/null || :
    # Those that were in the namespace die with its pid 1, but not in the same instant.
    while [ -d "$cgroup" ] && ! find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null; do
        sleep 0.05
    done
    umount --lazy --recursive "$scratch" 2>/dev/null || :
    rmdir "$scratch"
}

if [ "${SYSTEMD_TEST_PLACE-}" != inside ]; then
    # A mount namespace for the whole, so that every mount ends with its last process.
    [ "${SYSTEMD_TEST_PLACE-}" ] || SYSTEMD_TEST_PLACE=mounts exec unshare --mount --propagation private "$0" "$@"
    shift 2
    exec 3<&0 # a background job gets another standard input
    scratch=$(mktemp -d)
    cgroup= namespaces=
    trap clean EXIT
    trap 'exit 1' HUP INT TERM # which unshare ignores
    mount -t tmpfs tmpfs "$scratch"
    mkdir "$scratch/cgroups" "$scratch/upper" "$scratch/work" "$scratch/root"
    mount -t cgroup2 cgroup2 "$scratch/cgroups"
    home=$(sed -n 's/^0:://p' /proc/self/cgroup)
    home=$scratch/cgroups${home%/}
    cgroup=$home/systemd-test-$$
    mkdir "$cgroup"
    mount -t overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
    # The child joins the cgroup before it gets a namespace, whose root that becomes.
    SYSTEMD_TEST_PLACE=inside sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
        unshare --cgroup --pid --net --ipc --uts --mount --propagation private --fork --kill-child \
        "$0" "$scratch/root" "$console" "$@" </dev/null 3<&- >"$console" 2>&1 &
    namespaces=$!
    until systemd=$(cat "/proc/$namespaces/task/$namespaces/children" 2>/dev/null) && [ "$systemd" ]; do
        kill -0 "$namespaces" || exit 1
        sleep 0.01
    done
    echo "${systemd% }"
    # Whichever ends first: the test, whose end of our standard input is closed then, or systemd.
    { cat >/dev/null; kill -KILL "$namespaces" 2>/dev/null || :; } <&3 &
    reader=$!
    wait "$namespaces" || :
    namespaces=
    kill "$reader" 2>/dev/null || :
    exit 0
fi

cd "$root"
hostname machine
shift 2
while [ $# -gt 0 ]; do
    mount --bind "$1" ".$2"
    mount -o remount,bind,ro ".$2"
    shift 2
done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
# In place of a GPU's, something that every DevicePolicy= allows; and something that none should.
mknod -m 666 dev/nvidiactl c 1 5
mknod -m 666 dev/other c 1 11
mkdir dev/shm dev/pts dev/mqueue
mount -t mqueue mqueue dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx # PrivateDevices= needs it
mount -t tmpfs -o mode=1777 tmpfs dev/shm
# Where the stand-ins, each with a user of its own, say what happens to them.
mkdir -m 777 dev/shm/events
install -m 666 /dev/null dev/shm/events/log
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
pivot_root . mnt
exec chroot . /bin/sh -c 'umount -l /mnt; mount --make-rshared /; exec env -i container=test PATH=/usr/bin:/usr/sbin /lib/systemd/systemd --log-target=journal --log-level=info --show-status=no' </dev/null
