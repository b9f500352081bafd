# First process of a node, in network, mount, uts, ipc, pid and control group namespaces of its own.
# When it ends, the kernel ends everything in the node. Environment: NODE, ADDRESS, DIR, REGISTER.
set -eu
trap 'exit 0' TERM
hostname "$NODE"
mount --make-rprivate /
mount --make-rshared / # containers may mount for the node, never for the machine
mount -t proc proc /proc

# /sys of this network namespace, with the control groups rooted at the node's own.
hierarchies=$(awk '$3 == "cgroup" { print $2, $4 }' /proc/self/mounts)
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
if [ -n "$hierarchies" ]; then
    mount -t tmpfs -o mode=755 node /sys/fs/cgroup
    echo "$hierarchies" | while read -r at options; do
        controllers=$(echo "$options" | tr , '\n' |
            grep -Ev '^(rw|ro|relatime|noatime|nosuid|nodev|noexec)$' | paste -sd,)
        mkdir -p "$at"
        mount -t cgroup -o "$controllers" cgroup "$at"
    done
    mkdir -p /sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # Only groups without processes hand their controllers down.
    mkdir /sys/fs/cgroup/init
    echo 0 > /sys/fs/cgroup/init/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control || true
    done
fi
mount -t bpf bpffs /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing || true

# Nothing that the node writes reaches the machine.
for at in etc opt var/lib var/log; do
    mkdir -p "$DIR/over/$at/upper" "$DIR/over/$at/work"
    mount -t overlay node "/$at" \
        -o "lowerdir=/$at,upperdir=$DIR/over/$at/upper,workdir=$DIR/over/$at/work"
done
# What the machine has there is not the node's; what a node had before it was started again is.
if [ ! -e "$DIR/installed" ]; then
    rm -rf /etc/cni /opt/cni /etc/kubernetes /var/lib/cni /var/lib/fairlead /var/lib/kubelet /var/lib/containerd
    mkdir -p /etc/cni/net.d /opt/cni/bin /etc/kubernetes/manifests /var/lib/cni
    mkdir -p /var/log/pods /var/log/containers
    rm -f /etc/machine-id
    tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
    : > "$DIR/installed"
fi
# An overlay's layers can't lie in an overlay, and volumes want a plain file system below.
for at in var/lib/kubelet var/lib/containerd var/lib/fairlead; do
    mkdir -p "/$at" "$DIR/own/$at"
    mount --bind "$DIR/own/$at" "/$at"
done
mount -t tmpfs -o mode=755 node /run
mkdir -p /run/netns /run/lock /run/containerd
# Of these it has its own, with the rights that udev usually gives; /dev/net takes what trials make, too.
own() {
    at=$DIR/own/dev/$1
    [ -c "/dev/$1" ] && [ ! -e "$at" ] || return 0
    mkdir -p "${at%/*}"
    cp -a "/dev/$1" "$at"
    chgrp "$2" "$at"
    chmod "$3" "$at"
}
own kvm 107 660
own fuse 0 666
own net/tun 0 666
for name in kvm fuse net; do
    [ ! -e "$DIR/own/dev/$name" ] || mount --bind "$DIR/own/dev/$name" "/dev/$name"
done
rm -f /etc/hosts /etc/hostname /etc/resolv.conf
printf '127.0.0.1 localhost\n%s %s\n' "$ADDRESS" "$NODE" > /etc/hosts
echo "$NODE" > /etc/hostname
: > /etc/resolv.conf

# kubelet and kube-proxy set these for the whole machine: they get files that hold what they want.
mkdir -p "$DIR/sysctl"
while read -r name value; do
    [ -e "/proc/sys/$name" ] || continue
    file=$DIR/sysctl/$(echo "$name" | tr / .)
    echo "$value" > "$file"
    mount --bind "$file" "/proc/sys/$name"
done <<'END'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
for name in ipv4/ip_forward ipv6/conf/all/forwarding; do
    [ ! -e "/proc/sys/net/$name" ] || echo 1 > "/proc/sys/net/$name"
done
for name in all default; do
    echo 0 > "/proc/sys/net/ipv4/conf/$name/rp_filter"
done

containerd --config "$DIR/containerd.toml" >> "$DIR/containerd.log" 2>&1 &
: > "$DIR/mounted"
# A kubelet ends when nobody answers it.
until ctr version > /dev/null 2>&1; do sleep 0.1; done
# One that was killed comes back, as under systemd.
while :; do
    kubelet --config "$DIR/kubelet.json" --kubeconfig "$DIR/kubeconfig.json" --hostname-override "$NODE" \
        --node-ip "$REGISTER" --root-dir /var/lib/kubelet --v 2 >> "$DIR/kubelet.log" 2>&1 || true
    sleep 1
done &
while :; do
    wait || true
    sleep 1
done
