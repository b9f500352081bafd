//! Presets of network adapters and of what user space drives.

use super::*;

pub(super) const CASES: &[Case] = &[
    Case {
        preset: "rdma",
        node: |tree| {
            adapters(tree);
            tree.virtual_device("misc", "rdma_cm", 10, 58);
        },
        also: &[],
        expected: "
            rdma/hca_shared_devices_a: 1 device, each for 1000 containers
              rdma-0 to rdma-999 near 0, 1
                rw /dev/infiniband/rdma_cm /dev/infiniband/umad0 /dev/infiniband/umad1 /dev/infiniband/uverbs0 /dev/infiniband/uverbs1
        ",
    },
    // Without its module nothing can be connected.
    Case {
        preset: "rdma",
        node: adapters,
        also: &[],
        expected: "
            rdma/hca_shared_devices_a: 1 device, each for 1000 containers
              rdma-0 to rdma-999 near 0, 1
                refused: device rdma-0 of rdma/hca_shared_devices_a: /dev/infiniband/rdma_cm, which it is given with, isn't there
        ",
    },
    Case {
        preset: "rdma",
        node: virtual_functions,
        also: &[],
        expected: "rdma/hca_shared_devices_a: 0 devices, each for 1000 containers",
    },
    Case {
        preset: "sriov-net",
        node: virtual_functions,
        also: &[],
        expected: "
            intel.com/intel_sriov_netdevice: 4 devices
              0000:18:02.0 near 0
                PCIDEVICE_INTEL_COM_INTEL_SRIOV_NETDEVICE=0000:18:02.0
              0000:18:02.1 near 0
                PCIDEVICE_INTEL_COM_INTEL_SRIOV_NETDEVICE=0000:18:02.1
              0000:af:01.0 near 1
                PCIDEVICE_INTEL_COM_INTEL_SRIOV_NETDEVICE=0000:af:01.0
              0000:d8:10.0 near 1
                PCIDEVICE_INTEL_COM_INTEL_SRIOV_NETDEVICE=0000:d8:10.0
              the first two together:
                PCIDEVICE_INTEL_COM_INTEL_SRIOV_NETDEVICE=0000:18:02.0,0000:18:02.1
        ",
    },
    Case {
        preset: "vfio",
        node: user_space,
        also: &[],
        expected: "
            fairlead.dev/vfio: 3 devices
              0000:3b:00.0 near 0
                rw /dev/vfio/12 /dev/vfio/vfio
                PCIDEVICE_FAIRLEAD_DEV_VFIO=0000:3b:00.0
              0000:5e:00.0 near 1
                rw /dev/vfio/30 /dev/vfio/devices/vfio2 /dev/vfio/vfio
                PCIDEVICE_FAIRLEAD_DEV_VFIO=0000:5e:00.0
              0000:86:00.0
                refused: device 0000:86:00.0 of fairlead.dev/vfio: /dev/vfio/31, which it is given with, isn't there
              the first two together:
                rw /dev/vfio/12 /dev/vfio/30 /dev/vfio/devices/vfio2 /dev/vfio/vfio
                PCIDEVICE_FAIRLEAD_DEV_VFIO=0000:3b:00.0,0000:5e:00.0
              problem: 0000:d8:00.0 has no iommuGroup, which groupBy asks for: it is left out; give another groupBy, or find fewer
        ",
    },
];

/// Two RDMA adapters on two nodes of memory, and an adapter without it.
fn adapters(tree: &Tree) {
    for (at, address) in [(0, "0000:5e:00.0"), (1, "0000:af:00.0")] {
        let adapter = tree
            .pci(address)
            .ids("15b3", "1017")
            .class("020000")
            .driver("mlx5_core")
            .numa(at);
        adapter.part(&format!("net/ens{at}f0np0"), "net");
        adapter.part(&format!("infiniband/mlx5_{at}"), "infiniband");
        let (verbs, mad) = ("infiniband_verbs", "infiniband_mad");
        adapter.child(&format!("{verbs}/uverbs{at}"), verbs, 231, 192 + at);
        adapter.child(&format!("{mad}/umad{at}"), mad, 231, at);
        adapter.child(&format!("{mad}/issm{at}"), mad, 231, 64 + at);
    }
    let other = tree.pci("0000:18:00.0").ids("8086", "1572").class("020000");
    other.driver("i40e").part("net/ens9f0", "net");
}

/// Adapters of three generations with virtual functions, some of which are others': DPDK's, nobody's, another
/// vendor's; and one in a virtual machine, which doesn't know its physical one.
fn virtual_functions(tree: &Tree) {
    let physical = |address, device, driver, numa| {
        let function = tree.pci(address).ids("8086", device).class("020000");
        let function = function.driver(driver).numa(numa);
        function.part(&format!("net/{driver}f0"), "net");
        function.attribute("sriov_numvfs", "4")
    };
    let function = |address, device, numa| {
        let function = tree.pci(address).ids("8086", device).class("020000");
        function.numa(numa)
    };
    let (x710, e810) = (
        physical("0000:18:00.0", "1572", "i40e", 0),
        physical("0000:af:00.0", "1592", "ice", 1),
    );
    for (number, address) in [(0, "0000:18:02.0"), (1, "0000:18:02.1")] {
        let virtual_one = function(address, "154c", 0).virtual_function_of(&x710, number);
        let virtual_one = virtual_one.driver("iavf");
        virtual_one.part(&format!("net/ens1f0v{number}"), "net");
    }
    function("0000:18:02.2", "154c", 0)
        .virtual_function_of(&x710, 2)
        .driver("vfio-pci")
        .iommu_group(50);
    function("0000:18:02.3", "154c", 0).virtual_function_of(&x710, 3);
    function("0000:af:01.0", "1889", 1)
        .virtual_function_of(&e810, 0)
        .driver("iavf");
    let older = physical("0000:d8:00.0", "10fb", "ixgbe", 1);
    function("0000:d8:10.0", "10ed", 1)
        .virtual_function_of(&older, 0)
        .driver("ixgbevf");
    function("0000:00:05.0", "1889", 0).driver("iavf");
    let other = tree.pci("0000:5e:00.0").ids("15b3", "1017").class("020000");
    let other = other.driver("mlx5_core");
    tree.pci("0000:5e:00.2")
        .ids("15b3", "1018")
        .class("020000")
        .virtual_function_of(&other, 0)
        .driver("mlx5_core");
    // QuickAssist has virtual functions, too.
    let accelerator = physical("0000:6b:00.0", "4940", "4xxx", 0).class("0b4000");
    function("0000:6b:00.1", "4941", 0)
        .class("0b4000")
        .virtual_function_of(&accelerator, 0)
        .driver("4xxxvf");
}

/// A card and its sound in one group behind a bridge, a disk with the newer file, one whose group has no file, one
/// without an IOMMU, and others with drivers of the kernel.
fn user_space(tree: &Tree) {
    tree.file("vfio/vfio", 10, 196);
    for group in [12, 30, 99] {
        tree.virtual_device("vfio", &group.to_string(), 510, group);
    }
    tree.pci_below("pci0000:3a", "0000:3a:00.0")
        .ids("8086", "2030")
        .class("060400")
        .driver("pcieport")
        .iommu_group(12);
    for (address, device, class) in [
        ("0000:3b:00.0", "2236", "030200"),
        ("0000:3b:00.1", "228b", "040300"),
    ] {
        tree.pci_below("pci0000:3a/0000:3a:00.0", address)
            .ids("10de", device)
            .class(class)
            .driver("vfio-pci")
            .iommu_group(12)
            .numa(0);
    }
    let disk = |address| tree.pci(address).ids("144d", "a80a").class("010802");
    disk("0000:5e:00.0")
        .driver("vfio-pci")
        .iommu_group(30)
        .numa(1)
        .child("vfio-dev/vfio2", "vfio-dev", 511, 2);
    disk("0000:86:00.0").driver("vfio-pci").iommu_group(31);
    disk("0000:d8:00.0").driver("vfio-pci");
    disk("0000:d9:00.0")
        .driver("nvme")
        .iommu_group(99)
        .child("nvme/nvme0", "nvme", 240, 0);
    disk("0000:da:00.0").driver("uio_pci_generic");
}

#[test]
fn functions_are_those_with_the_driver_that_is_meant() {
    check(CASES);
}
