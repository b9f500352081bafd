#!/bin/busybox sh
# The first program of a guest: has the machine's own files below a layer that is forgotten, and goes on there.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for module in virtio_pci virtio_console virtio_blk 9pnet_virtio 9p overlay crc32c_generic loop; do
    $b modprobe $module
done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host || exec $b poweroff -f
$b mount -t tmpfs tmpfs /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new
for folder in proc sys dev; do
    $b mount --move /$folder /new/$folder
done
$b mkdir -p /new/tmp /new/run
$b mount -t tmpfs tmpfs /new/tmp
$b mount -t tmpfs tmpfs /new/run
$b mkdir -p /new/run/guest
$b cp $b /second.sh /command.sh /modules /version /new/run/guest/
exec $b switch_root /new /run/guest/busybox sh /run/guest/second.sh
