//! Presets of accelerators: QuickAssist, DSA, NPUs, FPGAs.

use super::*;
use crate::device::host::fake::Device;

const DAEMON: &[&str] = &[
    "/var/tmp/hddl_service.sock",
    "/var/tmp/hddl_service_ready.mutex",
    "/var/tmp/hddl_service_alive.mutex",
];

pub(super) const CASES: &[Case] = &[
    Case {
        preset: "intel-qat",
        node: quick_assist,
        also: &[],
        expected: "
            qat.intel.com/asym: 1 device
              0000:e8:00.1 near 1
                rw /dev/vfio/440 /dev/vfio/vfio
                QAT0=0000:e8:00.1
            qat.intel.com/cy: 3 devices
              0000:6b:00.1 near 0
                rw /dev/vfio/401 /dev/vfio/devices/vfio1 /dev/vfio/vfio
                QAT0=0000:6b:00.1
              0000:6b:00.2 near 0
                rw /dev/vfio/402 /dev/vfio/vfio
                QAT0=0000:6b:00.2
              0000:70:00.1 near 0
                rw /dev/vfio/410 /dev/vfio/vfio
                QAT0=0000:70:00.1
              the first two together:
                rw /dev/vfio/401 /dev/vfio/402 /dev/vfio/devices/vfio1 /dev/vfio/vfio
                QAT0=0000:6b:00.1
                QAT1=0000:6b:00.2
            qat.intel.com/dc: 1 device
              0000:75:00.1 near 0
                rw /dev/vfio/420 /dev/vfio/vfio
                QAT0=0000:75:00.1
            qat.intel.com/generic: 1 device
              0000:3d:01.0 near 0
                rw /dev/vfio/300 /dev/vfio/vfio
                QAT0=0000:3d:01.0
            qat.intel.com/sym: 1 device
              0000:e3:00.1 near 1
                rw /dev/vfio/430 /dev/vfio/vfio
                QAT0=0000:e3:00.1
        ",
    },
    // The link in /dev/char is given where udev made it.
    Case {
        preset: "intel-dsa",
        node: streaming,
        also: &[],
        expected: "
            dsa.intel.com/wq-user-dedicated: 1 device
              dsa:wq0.1 near 0
                rw /dev/dsa/wq0.1
            dsa.intel.com/wq-user-shared: 2 devices
              dsa:wq0.0 near 0
                rw /dev/char/236:0 /dev/dsa/wq0.0
              dsa:wq2.0 near 1
                rw /dev/char/236:2 /dev/dsa/wq2.0
              the first two together:
                rw /dev/char/236:0 /dev/char/236:2 /dev/dsa/wq0.0 /dev/dsa/wq2.0
        ",
    },
    // All that wait for their firmware say the same number.
    Case {
        preset: "intel-vpu",
        node: vision,
        also: DAEMON,
        expected: "
            npu.intel.com/accel: 1 device
              0000:00:0b.0
                rw /dev/accel/accel0
            vpu.intel.com/hddl: 3 devices
              03e7:2485:03e72485:2-1.1
                rw /dev/ion
                mount rw /var/tmp/hddl_service.sock
                mount rw /var/tmp/hddl_service_alive.mutex
                mount rw /var/tmp/hddl_service_ready.mutex
              03e7:2485:03e72485:2-1.2
                rw /dev/ion
                mount rw /var/tmp/hddl_service.sock
                mount rw /var/tmp/hddl_service_alive.mutex
                mount rw /var/tmp/hddl_service_ready.mutex
              03e7:f63b:2-1.3
                rw /dev/ion
                mount rw /var/tmp/hddl_service.sock
                mount rw /var/tmp/hddl_service_alive.mutex
                mount rw /var/tmp/hddl_service_ready.mutex
              the first two together:
                rw /dev/ion
                mount rw /var/tmp/hddl_service.sock
                mount rw /var/tmp/hddl_service_alive.mutex
                mount rw /var/tmp/hddl_service_ready.mutex
        ",
    },
    Case {
        preset: "intel-vpu",
        node: |tree| {
            tree.usb("2-1", 2, 2).ids("03e7", "2485").serial("03e72485");
            tree.virtual_device("misc", "ion", 10, 60);
        },
        also: &[],
        expected: "
            npu.intel.com/accel: 0 devices
            vpu.intel.com/hddl: 1 device
              03e7:2485:03e72485
                refused: device 03e7:2485:03e72485 of vpu.intel.com/hddl: /var/tmp/hddl_service.sock, which it is given with, isn't there; an agent in a container has to have its folder mounted at the same path (Helm: devices.hostPaths)
        ",
    },
    Case {
        preset: "intel-fpga",
        node: regions,
        also: &[],
        expected: "
            fpga.intel.com/af: 3 devices
              dfl-port.0 near 1
                rw /dev/dfl-port.0
              dfl-port.1 near 1
                rw /dev/dfl-port.1
              intel-fpga-port.0 near 0
                rw /dev/intel-fpga-port.0
              the first two together:
                rw /dev/dfl-port.0 /dev/dfl-port.1
        ",
    },
    Case {
        preset: "xilinx-fpga",
        node: alveo,
        also: &[],
        expected: "
            amd.com/xilinx-fpga: 2 devices
              0000:65:00.1 near 0
                rw /dev/dri/renderD128
              0000:b3:00.1 near 1
                rw /dev/dri/renderD129 /dev/xfpga/dma.qdma.u45825.0
              the first two together:
                rw /dev/dri/renderD128 /dev/dri/renderD129 /dev/xfpga/dma.qdma.u45825.0
        ",
    },
];

/// A function of QuickAssist.
fn assist<'a>(tree: &'a Tree, address: &str, device: &str, numa: u32) -> Device<'a> {
    let function = tree.pci(address).ids("8086", device).class("0b4000");
    function.numa(numa)
}

/// A function that user space drives, with its group's file.
fn given<'a>(tree: &Tree, function: Device<'a>, group: u32) -> Device<'a> {
    tree.virtual_device("vfio", &group.to_string(), 510, group);
    function.driver("vfio-pci").iommu_group(group)
}

/// Physical functions of the fourth generation with every choice of services, and an older one. Functions that aren't
/// meant: the physical ones, one with the kernel's driver, one with another pair of services, a network adapter's.
fn quick_assist(tree: &Tree) {
    tree.file("vfio/vfio", 10, 196);
    for (slot, [physical, its], services, numa, group) in [
        ("0000:6b:00", ["4940", "4941"], "sym;asym", 0, 401),
        ("0000:70:00", ["4940", "4941"], "asym;sym", 0, 410),
        ("0000:75:00", ["4942", "4943"], "dc", 0, 420),
        ("0000:e3:00", ["4944", "4945"], "sym", 1, 430),
        ("0000:e8:00", ["4944", "4945"], "asym", 1, 440),
        ("0000:ed:00", ["4940", "4941"], "sym;dc", 1, 450),
    ] {
        let physical = assist(tree, &format!("{slot}.0"), physical, numa)
            .driver("4xxx")
            .attribute("qat/cfg_services", services);
        let function = |number: u32| {
            let address = format!("{slot}.{number}");
            assist(tree, &address, its, numa).virtual_function_of(&physical, number - 1)
        };
        let first = given(tree, function(1), group);
        if group == 401 {
            first.child("vfio-dev/vfio1", "vfio-dev", 511, 1);
            given(tree, function(2), 402);
            function(3).driver("4xxxvf");
        }
    }
    let older = assist(tree, "0000:3d:00.0", "37c8", 0).driver("c6xx");
    let function =
        |address, number| assist(tree, address, "37c9", 0).virtual_function_of(&older, number);
    given(tree, function("0000:3d:01.0", 0), 300);
    function("0000:3d:01.1", 1).driver("c6xxvf");
    let other = tree.pci("0000:18:02.0").ids("8086", "154c").class("020000");
    given(tree, other, 310);
}

/// An accelerator whose number is the last of its name.
fn accelerator<'a>(tree: &'a Tree, address: &str, name: &str, numa: u32) -> Device<'a> {
    let (kind, number) = name.split_at(3);
    let device = if kind == "dsa" { "0b25" } else { "0cfe" };
    let function = tree.pci(address).ids("8086", device).class("088000");
    let function = function.driver("idxd").numa(numa);
    function.part_on_bus(name, "dsa").driver("idxd");
    for part in ["engine", "group"] {
        function.part_on_bus(&format!("{name}/{part}{number}.0"), "dsa");
    }
    function
}

/// A queue of it: its type, mode and state; with the numbers of its file, where it has one.
fn queue(function: &Device<'_>, place: &str, is: [&str; 3], numbers: Option<(u32, u32)>) {
    let mut queue = function.part_on_bus(place, "dsa");
    for (name, value) in ["type", "mode", "state"].into_iter().zip(is) {
        queue = queue.attribute(name, value);
    }
    let (kind, name) = (&place[..3], place.rsplit('/').next().unwrap());
    if kind == "dsa" {
        queue = queue.attribute("max_batch_size", "32");
    }
    if let Some((major, minor)) = numbers {
        let file = queue.part_on_bus(&format!("{kind}!{name}"), "dsa");
        file.file(&format!("{kind}/{name}"), major, minor);
    }
}

/// Queues for user space of two accelerators, for the kernel, and not enabled; and those of an analytics accelerator.
fn streaming(tree: &Tree) {
    let shared = ["user", "shared", "enabled"];
    let dedicated = ["user", "dedicated", "enabled"];
    let first = accelerator(tree, "0000:6a:01.0", "dsa0", 0);
    queue(&first, "dsa0/wq0.0", shared, Some((236, 0)));
    queue(&first, "dsa0/wq0.1", dedicated, Some((236, 1)));
    queue(
        &first,
        "dsa0/wq0.2",
        ["kernel", "dedicated", "enabled"],
        None,
    );
    queue(&first, "dsa0/wq0.3", ["user", "shared", "disabled"], None);
    queue(&first, "dsa0/wq0.4", ["none", "shared", "disabled"], None);
    let second = accelerator(tree, "0000:e7:01.0", "dsa2", 1);
    queue(&second, "dsa2/wq2.0", shared, Some((236, 2)));
    let other = accelerator(tree, "0000:6a:02.0", "iax1", 0);
    queue(&other, "iax1/wq1.0", shared, Some((237, 0)));
    tree.link("char/236:0", "../dsa/wq0.0");
    tree.link("char/236:2", "../dsa/wq2.0");
    tree.link("char/237:0", "../iax/wq1.0");
}

/// An NPU in the processor and another vendor's accelerator; a card with vision processors, of which one has its
/// firmware already, and an older stick.
fn vision(tree: &Tree) {
    let npu = tree.pci("0000:00:0b.0").ids("8086", "7d1d").class("120000");
    let npu = npu.driver("intel_vpu");
    npu.child("accel/accel0", "accel", 261, 0);
    let other = tree.pci("0000:33:00.0").ids("1da3", "1020").class("120000");
    let other = other.driver("habanalabs");
    other.child("accel/accel1", "accel", 261, 1);
    tree.usb("2-1", 2, 2).ids("1a40", "0201").hub();
    for (port, number) in [("2-1.1", 3), ("2-1.2", 4)] {
        let waiting = tree.usb(port, 2, number).ids("03e7", "2485");
        waiting.serial("03e72485");
    }
    tree.usb("2-1.3", 2, 5).ids("03e7", "f63b");
    tree.usb("2-2", 2, 6).ids("03e7", "2150");
    tree.virtual_device("misc", "ion", 10, 60);
}

/// A port of a card and one of its virtual function by the kernel's driver, and one by the older driver: with their
/// management engines.
fn regions(tree: &Tree) {
    let card = tree.pci("0000:3b:00.0").ids("8086", "09c4").class("120000");
    let card = card.driver("dfl-pci").numa(1);
    let region = "fpga_region/region0";
    card.part(region, "fpga_region");
    card.part_on_bus(&format!("{region}/dfl-fme.0"), "platform")
        .attribute("ports_num", "1")
        .file("dfl-fme.0", 240, 0);
    let inner = format!("{region}/dfl-fme.0/dfl-fme-region.1");
    card.part_on_bus(&inner, "platform");
    card.part_on_bus(&format!("{region}/dfl-port.0"), "platform")
        .attribute("afu_id", "d8424dc4a4a3c413f89e433683f9040b")
        .file("dfl-port.0", 241, 0);
    tree.pci("0000:3b:00.1")
        .ids("8086", "09c5")
        .class("120000")
        .driver("dfl-pci")
        .numa(1)
        .virtual_function_of(&card, 0)
        .part_on_bus("fpga_region/region2/dfl-port.1", "platform")
        .attribute("afu_id", "d8424dc4a4a3c413f89e433683f9040b")
        .file("dfl-port.1", 241, 1);
    let older = tree.pci("0000:06:00.0").ids("8086", "bcc0").class("120000");
    let older = older.driver("intel-fpga-pci").numa(0);
    let device = "fpga/intel-fpga-dev.0";
    older.part(device, "fpga");
    for (name, minor) in [("intel-fpga-fme.0", 0), ("intel-fpga-port.0", 1)] {
        older
            .part_on_bus(&format!("{device}/{name}"), "platform")
            .file(name, 242, minor);
    }
}

/// Two cards, one with QDMA, each with the function that manages it; and an adapter of the same vendor.
fn alveo(tree: &Tree) {
    for (slot, at, instance) in [("0000:65:00", 0, 25857), ("0000:b3:00", 1, 45825)] {
        let manager = tree.pci(&format!("{slot}.0")).ids("10ee", "5004");
        manager
            .class("120000")
            .driver("xclmgmt")
            .numa(at)
            .attribute("mgmt_pf", "")
            .part("misc/xclmgmt", "xrt_mgmt")
            .file(&format!("xclmgmt{}", instance - 1), 234, at);
        let user = tree.pci(&format!("{slot}.1")).ids("10ee", "5005");
        let user = user.class("120000").driver("xocl").numa(at);
        let user = user.attribute("user_pf", "");
        user.child(&format!("drm/renderD{}", 128 + at), "drm", 226, 128 + at);
        let class = "xrt_user";
        let mailbox = format!("mailbox.u.{at}/{class}/xfpga!mailbox.u{instance}.0");
        user.child(&mailbox, class, 235, 2 * at);
        if at == 1 {
            let file = format!("dma.qdma.u.{at}/{class}/xfpga!dma.qdma.u{instance}.0");
            user.child(&file, class, 235, 3);
        }
    }
    tree.pci("0000:c1:00.0")
        .ids("10ee", "903f")
        .class("058000")
        .driver("qdma-pf");
}

#[test]
fn accelerators_are_those_that_user_space_may_have() {
    check(CASES);
}
