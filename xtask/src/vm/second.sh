# Goes on where first.sh ended: what a machine has when somebody logs in, the command, its code, and the end.
b=/run/guest/busybox
version=$($b cat /run/guest/version)
$b mkdir -p "/lib/modules/$version" /dev/shm /dev/pts
$b mount --bind "$($b cat /run/guest/modules)" "/lib/modules/$version"
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t devpts devpts /dev/pts
# So that the kernel gets the modules that it asks for.
$b ln -s $b /run/guest/modprobe
echo /run/guest/modprobe > /proc/sys/kernel/modprobe
$b mount --make-rshared /
$b hostname guest
$b ip link set lo up
for port in /sys/class/virtio-ports/*; do
    case $($b cat "$port/name") in
    output) output=/dev/${port##*/} ;;
    status) status=/dev/${port##*/} ;;
    esac
done
echo up > "$status"
export HOME=/root TMPDIR=/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
/bin/sh /run/guest/command.sh < /dev/null > "$output" 2>&1
echo "exit $?" > "$status"
$b sync
$b poweroff -f
