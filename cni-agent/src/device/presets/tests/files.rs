//! Presets of files that each node has once: of the kernel, of SGX, of Onload; and the example.

use super::*;
use crate::device::resource::made_up_of;
use tokio::time::Instant;

pub(super) const EXAMPLE: &str = "example";

pub(super) const CASES: &[Case] = &[
    Case {
        preset: "kvm",
        node: kernel,
        also: &[],
        expected: "
            devices.kubevirt.io/kvm: 1 device, each for 1000 containers
              kvm-0 to kvm-999
                rw /dev/kvm
        ",
    },
    Case {
        preset: "tun",
        node: kernel,
        also: &[],
        expected: "
            devices.kubevirt.io/tun: 1 device, each for 1000 containers
              net-tun-e475e4f8-0 to net-tun-e475e4f8-999
                rw /dev/net/tun
        ",
    },
    Case {
        preset: "vhost-net",
        node: kernel,
        also: &[],
        expected: "
            devices.kubevirt.io/vhost-net: 1 device, each for 1000 containers
              vhost-net-0 to vhost-net-999
                rw /dev/vhost-net
        ",
    },
    Case {
        preset: "fuse",
        node: kernel,
        also: &[],
        expected: "
            squat.ai/fuse: 1 device, each for 100 containers
              fuse-0 to fuse-99
                rw /dev/fuse
        ",
    },
    Case {
        preset: "intel-sgx",
        node: kernel,
        also: &[],
        expected: "
            sgx.intel.com/enclave: 1 device, each for 110 containers
              sgx_enclave-0 to sgx_enclave-109
                rw /dev/sgx_enclave
            sgx.intel.com/provision: 1 device, each for 110 containers
              sgx_provision-0 to sgx_provision-109
                rw /dev/sgx_provision
        ",
    },
    // A folder in the place of a device is none.
    Case {
        preset: "kvm",
        node: |tree| tree.folder("kvm"),
        also: &[],
        expected: "devices.kubevirt.io/kvm: 0 devices, each for 1000 containers",
    },
    Case {
        preset: "intel-sgx",
        node: |tree| {
            tree.virtual_device("misc", "sgx_vepc", 10, 126);
        },
        also: &[],
        expected: "
            sgx.intel.com/enclave: 0 devices, each for 110 containers
            sgx.intel.com/provision: 0 devices, each for 110 containers
        ",
    },
    Case {
        preset: "solarflare",
        node: |tree| {
            onload(tree);
            tree.file("sfc_char", 237, 0);
        },
        also: &["/opt/onload/usr/lib64"],
        expected: "
            amd.com/onload: 1 device, each for 100 containers
              onload-0 to onload-99
                rw /dev/onload /dev/onload_epoll /dev/sfc_char
                mount ro /opt/onload/usr/lib64
                LD_PRELOAD=/opt/onload/usr/lib64/libonload.so
        ",
    },
    // Without ef_vi's file it is one all the same, without the libraries it can't be given.
    Case {
        preset: "solarflare",
        node: onload,
        also: &["/opt/onload/usr/lib64"],
        expected: "
            amd.com/onload: 1 device, each for 100 containers
              onload-0 to onload-99
                rw /dev/onload /dev/onload_epoll
                mount ro /opt/onload/usr/lib64
                LD_PRELOAD=/opt/onload/usr/lib64/libonload.so
        ",
    },
    Case {
        preset: "solarflare",
        node: onload,
        also: &[],
        expected: "
            amd.com/onload: 1 device, each for 100 containers
              onload-0 to onload-99
                refused: device onload-0 of amd.com/onload: /opt/onload/usr/lib64, which it is given with, isn't there; an agent in a container has to have its folder mounted at the same path (Helm: devices.hostPaths)
        ",
    },
];

/// What most nodes have, and names that begin alike.
fn kernel(tree: &Tree) {
    for (name, minor) in [
        ("kvm", 232),
        ("tun", 200),
        ("vhost-net", 238),
        ("vhost-vsock", 241),
        ("fuse", 229),
        ("cuse", 203),
        ("loop-control", 237),
        ("sgx_enclave", 125),
        ("sgx_provision", 126),
        ("sgx_vepc", 127),
    ] {
        tree.virtual_device("misc", name, 10, minor);
    }
    tree.virtual_device("mem", "null", 1, 3);
}

/// What the modules make, and the adapter beneath.
fn onload(tree: &Tree) {
    let adapter = tree.pci("0000:3b:00.0").ids("1924", "0b03").class("020000");
    adapter.driver("sfc").part("net/ens1f0np0", "net");
    tree.file("onload", 235, 0);
    tree.file("onload_epoll", 236, 0);
    tree.file("onload_cplane", 238, 0);
}

#[test]
fn files_of_the_kernel_are_shared() {
    check(CASES);
}

#[test]
fn the_example_is_one_to_five_devices_with_a_variable_of_their_own() {
    let [rule] = rules(EXAMPLE).try_into().unwrap();
    assert_eq!(rule.name.as_str(), "extend-k8s.io/example");
    assert_eq!(Tree::new().host().find(&rule.find).found, []);
    let mut offer = Offer::new(Arc::new(rule), Vec::new());
    let mut counts = BTreeSet::new();
    for _ in 0..200 {
        let at = Instant::now();
        let (next, due) = made_up_of(&offer, at);
        assert_eq!((due - at).as_secs(), 5);
        let known = offer.devices.keys().collect::<BTreeSet<_>>();
        assert!(next.devices.keys().all(|id| !known.contains(id)));
        counts.insert(next.devices.len());
        offer = next;
    }
    assert_eq!(counts, (1..=5).collect());
    let numbers = std::cell::Cell::new(0);
    let node = Node {
        exists: &|_| false,
        random: &|| format!("{:016x}", numbers.replace(numbers.get() + 1)),
    };
    let ids: Vec<DeviceId> = offer.devices.keys().cloned().collect();
    let given = allocate::plan(&offer, &ids, &node).unwrap();
    let values: Vec<String> = (0..ids.len()).map(|n| format!("{n:016x}")).collect();
    let variable = ("K8S_DEVICE_PLUGIN_EXAMPLE".to_owned(), values.join(","));
    let expected = Given {
        environment: [variable].into(),
        ..Given::default()
    };
    assert_eq!(given, expected);
}
