//! Tests of what is found on nodes like those that there are.

mod trees;

use super::{Host, fake::Tree};
use crate::device::{
    found::{FileKind, Findings, Found},
    plan::{By, Finder, Pattern},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::Duration,
};

fn pattern(text: &str) -> Option<Pattern> {
    Some(Pattern(text.to_owned()))
}

fn by(by: By) -> Finder {
    Finder {
        by,
        attributes: BTreeMap::new(),
        properties: BTreeMap::new(),
    }
}

fn path(text: &str) -> Finder {
    by(By::Path(Pattern(text.to_owned())))
}

fn directory(text: &str) -> Finder {
    by(By::Directory(Pattern(text.to_owned())))
}

fn usb(vendor: &str, serial: Option<&str>) -> Finder {
    by(By::Usb {
        vendor: pattern(vendor),
        product: None,
        serial: serial.and_then(pattern),
    })
}

fn pci(vendor: &str, class: &str, driver: Option<&str>) -> Finder {
    by(By::Pci {
        vendor: pattern(vendor),
        device: None,
        class: (!class.is_empty()).then(|| class.to_owned()),
        driver: driver.and_then(pattern),
        address: None,
    })
}

fn subsystem(subsystem: &str, name: &str) -> Finder {
    by(By::Subsystem {
        subsystem: subsystem.to_owned(),
        name: pattern(name),
    })
}

fn cdi(kind: &str) -> Finder {
    by(By::Cdi {
        kind: kind.to_owned(),
        name: None,
    })
}

fn with(mut finder: Finder, attribute: &str, value: &str) -> Finder {
    let value = Pattern(value.to_owned());
    finder.attributes.insert(attribute.to_owned(), value);
    finder
}

fn knowing(mut finder: Finder, property: &str, value: &str) -> Finder {
    let value = Pattern(value.to_owned());
    finder.properties.insert(property.to_owned(), value);
    finder
}

fn keys(findings: &Findings) -> Vec<&str> {
    findings.found.iter().map(|found| &*found.key).collect()
}

fn files(found: &Found) -> Vec<&str> {
    found
        .files
        .iter()
        .map(|file| file.path.to_str().unwrap())
        .collect()
}

fn field<'a>(found: &'a Found, name: &str) -> &'a str {
    found.fields.get(name).map_or("", String::as_str)
}

/// The one that is found, without problems.
fn one(host: &Host, finder: Finder) -> Found {
    let mut findings = host.find(&[finder]);
    assert_eq!(findings.problems, [""; 0]);
    assert_eq!(findings.found.len(), 1, "{findings:#?}");
    findings.found.remove(0)
}

/// A USB serial adapter behind a hub, as FTDI's are.
fn serial_adapter(tree: &Tree) {
    tree.usb("1-2", 1, 2).ids("05e3", "0608").hub();
    let adapter = tree
        .usb("1-2.3", 1, 4)
        .ids("0403", "6001")
        .serial("A50285BI")
        .interface("1-2.3:1.0", "usb", "ftdi_sio");
    adapter
        .child("1-2.3:1.0/ttyUSB0/tty/ttyUSB0", "tty", 188, 0)
        .property("ID_MODEL", "FT232R_USB_UART")
        .property("ID_USB_DRIVER", "ftdi_sio")
        .link("serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0")
        .link("serial/by-path/pci-0000:00:14.0-usb-0:2.3:1.0-port0");
}

#[test]
fn a_usb_adapter_is_all_its_files_and_its_hub_is_none() {
    let tree = Tree::new();
    serial_adapter(&tree);
    let found = one(&tree.host(), usb("*", None));
    assert_eq!(found.key, "0403:6001:A50285BI");
    assert_eq!(files(&found), ["/dev/bus/usb/001/004", "/dev/ttyUSB0"]);
    for (name, value) in [
        ("usb", "1-2.3"),
        ("serial", "A50285BI"),
        ("vendor", "0403"),
        ("device", "6001"),
        ("driver", "ftdi_sio"),
        ("subsystem", "usb"),
        ("pci", "0000:00:14.0"),
        ("pciRoot", "pci0000:00"),
        ("path", "/dev/bus/usb/001/004"),
        ("udev:DEVTYPE", "usb_device"),
    ] {
        assert_eq!(field(&found, name), value, "{name}");
    }
    let sysfs = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2.3";
    let site = found.site.unwrap();
    assert_eq!(site.sysfs, Path::new(sysfs));
    assert_eq!(site.name, "0403:6001:A50285BI:1-2.3");
    assert!(tree.host().is_there(&site));
}

#[test]
fn a_terminal_is_called_by_its_adapter_whoever_finds_it() {
    let tree = Tree::new();
    serial_adapter(&tree);
    let host = tree.host();
    let its = "0403:6001:A50285BI:1.0";
    let by_id = "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0";
    let by_path = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:2.3:1.0-port0";
    for (finder, key) in [
        (path("/dev/ttyUSB*"), its),
        // Who names a link means that one.
        (path("/dev/serial/by-id/usb-FTDI*"), by_id),
        (path("/dev/serial/by-path/*"), by_path),
        (subsystem("tty", "ttyUSB[0-9]"), its),
        (knowing(path("/dev/tty*"), "ID_MODEL", "FT232R*"), its),
        (with(path("/dev/tty*"), "device/driver", "ftdi*"), its),
    ] {
        let words = format!("{finder:?}");
        if words.contains("device/driver") {
            // The port itself has no driver in this tree.
            assert_eq!(host.find(&[finder]).found, []);
            continue;
        }
        let found = one(&host, finder);
        assert_eq!(found.key, key, "{words}");
        assert_eq!(files(&found), ["/dev/ttyUSB0"], "{words}");
        assert_eq!((found.files[0].major, found.files[0].minor), (188, 0));
        assert_eq!(found.files[0].kind, FileKind::Character);
        assert_eq!(field(&found, "serial"), "A50285BI");
        assert_eq!(field(&found, "driver"), "ftdi_sio");
        assert_eq!(field(&found, "name"), "ttyUSB0");
        assert_eq!(field(&found, "udev:ID_MODEL"), "FT232R_USB_UART");
    }
}

#[test]
fn what_two_finders_find_is_there_once() {
    let tree = Tree::new();
    serial_adapter(&tree);
    tree.virtual_device("misc", "kvm", 10, 232);
    let finders = [
        path("/dev/serial/by-path/*"),
        path("/dev/ttyUSB0"),
        subsystem("tty", "*"),
        path("/dev/kvm"),
        subsystem("misc", "kvm"),
    ];
    let findings = tree.host().find(&finders);
    let by_path = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:2.3:1.0-port0";
    assert_eq!(keys(&findings), ["/dev/kvm", by_path]);
    assert_eq!(findings.looks.len(), finders.len());
    assert_eq!(findings, tree.host().find(&finders));
}

#[test]
fn adapters_that_say_the_same_are_told_by_their_ports() {
    let tree = Tree::new();
    for (port, number) in [("1-1", 5), ("1-3", 6)] {
        let adapter = tree.usb(port, 1, number).ids("1a86", "7523");
        let place = format!("{port}:1.0/ttyUSB{number}/tty/ttyUSB{number}");
        adapter.child(&place, "tty", 188, number);
    }
    for port in ["2-1", "2-2"] {
        let number = u32::from(port == "2-2") + 2;
        tree.usb(port, 2, number).ids("10c4", "ea60").serial("0001");
    }
    let findings = tree.host().find(&[usb("*", None)]);
    assert_eq!(
        keys(&findings),
        [
            "10c4:ea60:0001:2-1",
            "10c4:ea60:0001:2-2",
            "1a86:7523:1-1",
            "1a86:7523:1-3"
        ]
    );
    // Their parts too, where udev makes no link.
    let findings = tree.host().find(&[path("/dev/ttyUSB*")]);
    assert_eq!(keys(&findings), ["1a86:7523:1-1:1.0", "1a86:7523:1-3:1.0"]);
    let numbered = tree.host().find(&[usb("*", Some("*"))]);
    assert_eq!(numbered.found.len(), 2);
}

#[test]
fn links_by_id_name_none_of_those_that_say_the_same() {
    let tree = Tree::new();
    for (port, minor) in [("1-1", 0), ("1-2", 16)] {
        let disk = tree.usb(port, 1, 5 + minor).ids("0781", "5567");
        let place = format!("{port}:1.0/host{minor}/block/sd{minor}");
        let disk = disk.child(&place, "block", 8, minor);
        disk.link(&format!("disk/by-path/pci-0000:00:14.0-usb-0:{port}"));
    }
    let disks = || subsystem("block", "sd*");
    let before = tree.host().find(&[disks()]);
    let by_path = |port: &str| format!("/dev/disk/by-path/pci-0000:00:14.0-usb-0:{port}");
    assert_eq!(keys(&before), [by_path("1-1"), by_path("1-2")]);
    // Both have the same link, and whoever came last has it.
    tree.link("disk/by-id/usb-SanDisk_Cruzer-0:0", "../../sd0");
    assert_eq!(tree.host().find(&[disks()]), before);
    // One that has a number is called by it.
    let disk = tree.usb("1-3", 1, 40).ids("0781", "5567").serial("4C53");
    disk.child("1-3:1.0/host2/block/sdc", "block", 8, 32)
        .link("disk/by-id/usb-SanDisk_Cruzer_4C53-0:0");
    let findings = tree.host().find(&[subsystem("block", "sdc")]);
    assert_eq!(
        keys(&findings),
        ["/dev/disk/by-id/usb-SanDisk_Cruzer_4C53-0:0"]
    );
}

#[test]
fn terminals_of_one_interface_are_told_by_their_port() {
    let tree = Tree::new();
    let adapter = tree.usb("1-4", 1, 7).ids("9710", "7840").serial("M1");
    for (name, minor) in [("ttyUSB9", 9), ("ttyUSB10", 10)] {
        let place = format!("1-4:1.0/{name}/tty/{name}");
        let terminal = adapter.child(&place, "tty", 188, minor);
        terminal.attribute("device/port_number", &(minor - 9).to_string());
    }
    let findings = tree.host().find(&[subsystem("tty", "ttyUSB*")]);
    assert_eq!(keys(&findings), ["9710:7840:M1:1.0", "9710:7840:M1:1.0-1"]);
    assert_eq!(field(&findings.found[1], "name"), "ttyUSB10");
}

#[test]
fn parts_of_one_interface_are_counted_in_the_same_order_each_time() {
    let tree = Tree::new();
    let receiver = tree.usb("1-4", 1, 7).ids("046d", "c52b");
    for (place, minor) in [
        ("0003:046D:C52B.0004/hidraw/hidraw9", 9),
        ("0003:046D:C52B.0005/hidraw/hidraw10", 10),
    ] {
        receiver.child(&format!("1-4:1.2/{place}"), "hidraw", 240, minor);
    }
    let findings = tree.host().find(&[subsystem("hidraw", "*")]);
    let told: Vec<_> = findings
        .found
        .iter()
        .map(|f| (&*f.key, field(f, "name")))
        .collect();
    assert_eq!(
        told,
        [
            ("046d:c52b:1-4:1.2", "hidraw9"),
            ("046d:c52b:1-4:1.2:1", "hidraw10")
        ]
    );
}

#[test]
fn a_gpu_is_its_cards_and_render_nodes() {
    let tree = Tree::new();
    let gpu = tree
        .pci_below("pci0000:3a/0000:3a:00.0", "0000:3b:00.0")
        .ids("1002", "740F")
        .class("038000")
        .driver("amdgpu")
        .numa(1)
        .iommu_group(42);
    gpu.child("drm/card0", "drm", 226, 0);
    gpu.child("drm/renderD128", "drm", 226, 128)
        .link("dri/by-path/pci-0000:3b:00.0-render");
    // Another function behind the same bridge, and one of another kind.
    tree.pci_below("pci0000:3a/0000:3a:00.0", "0000:3b:00.1")
        .ids("1002", "ab38")
        .class("040300");
    let found = one(&tree.host(), pci("1002", "0380", None));
    assert_eq!(found.key, "0000:3b:00.0");
    assert_eq!(files(&found), ["/dev/dri/card0", "/dev/dri/renderD128"]);
    assert_eq!(found.numa, [1]);
    for (name, value) in [
        ("pci", "0000:3b:00.0"),
        ("pciSlot", "0000:3b:00"),
        ("pciRoot", "pci0000:3a"),
        ("iommuGroup", "42"),
        ("numa", "1"),
        ("driver", "amdgpu"),
        ("vendor", "1002"),
        ("device", "740f"),
        ("udev:PCI_SLOT_NAME", "0000:3b:00.0"),
    ] {
        assert_eq!(field(&found, name), value, "{name}");
    }
    // Its render node by itself: by its stable link, and near to the same node.
    let render = one(&tree.host(), subsystem("drm", "renderD*"));
    assert_eq!(render.key, "/dev/dri/by-path/pci-0000:3b:00.0-render");
    assert_eq!(
        (render.numa.as_slice(), field(&render, "pci")),
        (&[1][..], "0000:3b:00.0")
    );
    // A bridge doesn't have what is behind it.
    tree.pci_below("pci0000:3a", "0000:3a:00.0")
        .class("060400")
        .driver("pcieport")
        .iommu_group(3);
    let bridge = one(&tree.host(), pci("*", "0604", None));
    assert_eq!(files(&bridge), [""; 0]);
    // Nor does what is behind it have its driver.
    let unbound = one(&tree.host(), pci("1002", "0403", None));
    assert_eq!(
        (field(&unbound, "driver"), field(&unbound, "iommuGroup")),
        ("", "")
    );
}

#[test]
fn virtual_functions_are_told_by_their_driver_and_their_physical_one() {
    let tree = Tree::new();
    let physical = tree
        .pci("0000:5e:00.0")
        .ids("15b3", "101d")
        .class("020000")
        .driver("mlx5_core")
        .numa(0);
    physical.part("net/ens1f0", "net").attribute("ifindex", "7");
    for number in 0..3 {
        tree.pci_below("pci0000:5e", &format!("0000:5e:00.{}", number + 2))
            .ids("15b3", "101e")
            .class("020000")
            .numa(0)
            .iommu_group(100 + number)
            .driver(if number == 0 { "mlx5_core" } else { "vfio-pci" })
            .virtual_function_of(&physical, number);
    }
    let findings = tree.host().find(&[pci("15b3", "02", Some("vfio-pci"))]);
    assert_eq!(keys(&findings), ["0000:5e:00.3", "0000:5e:00.4"]);
    let first = &findings.found[0];
    assert_eq!(field(first, "physfn"), "0000:5e:00.0");
    assert_eq!(field(first, "iommuGroup"), "101");
    assert_eq!(files(first), [""; 0]);
    let look = &findings.looks[0];
    assert_eq!(
        look.finder,
        "PCI functions with vendor 15b3, class 02, driver vfio-pci"
    );
    let left: Vec<_> = look
        .left
        .iter()
        .map(|(words, left)| (&**words, *left))
        .collect();
    assert_eq!(look.candidates, 4);
    assert_eq!(
        left,
        [
            ("vendor 15b3", 4),
            ("class 02", 4),
            ("driver vfio-pci", 2),
            ("a file in /dev", 2)
        ]
    );
    // A network interface is a device without a file.
    let interface = one(&tree.host(), subsystem("net", "ens*"));
    assert_eq!(
        (&*interface.key, field(&interface, "pci")),
        ("net:ens1f0", "0000:5e:00.0")
    );
}

#[test]
fn the_new_files_of_vfio_belong_to_their_function() {
    let tree = Tree::new();
    tree.pci("0000:18:00.0")
        .driver("vfio-pci")
        .child("vfio-dev/vfio0", "vfio-dev", 511, 0);
    let found = one(&tree.host(), pci("*", "", Some("vfio-pci")));
    assert_eq!(files(&found), ["/dev/vfio/devices/vfio0"]);
}

#[test]
fn a_disk_is_its_controller_with_its_serial_number() {
    let tree = Tree::new();
    let disk = tree
        .pci("0000:65:00.0")
        .ids("144d", "a80a")
        .class("010802")
        .driver("nvme")
        .numa(1);
    disk.child("nvme/nvme0", "nvme", 240, 0)
        .attribute("serial", "S64GNE0R");
    disk.child("nvme/nvme0/nvme0n1", "block", 259, 0)
        .property("ID_SERIAL_SHORT", "S64GNE0R")
        .link("disk/by-id/nvme-SAMSUNG_S64GNE0R");
    disk.child("nvme/nvme0/nvme0n1/nvme0n1p1", "block", 259, 1);
    let found = one(&tree.host(), pci("*", "0108", Some("nvme")));
    assert_eq!(
        files(&found),
        ["/dev/nvme0", "/dev/nvme0n1", "/dev/nvme0n1p1"]
    );
    assert_eq!(field(&found, "serial"), "S64GNE0R");
    let block = one(&tree.host(), path("/dev/disk/by-id/nvme-*"));
    assert_eq!(block.key, "/dev/disk/by-id/nvme-SAMSUNG_S64GNE0R");
    assert_eq!(files(&block), ["/dev/nvme0n1"]);
    assert_eq!(block.files[0].kind, FileKind::Block);
    assert_eq!(
        (field(&block, "serial"), block.numa.as_slice()),
        ("S64GNE0R", &[1][..])
    );
}

#[test]
fn an_adapter_for_rdma_is_all_its_files() {
    let tree = Tree::new();
    let adapter = tree
        .pci("0000:af:00.0")
        .ids("15b3", "1017")
        .class("020700")
        .numa(1);
    adapter.part("infiniband/mlx5_0", "infiniband");
    adapter.child("infiniband_verbs/uverbs0", "infiniband_verbs", 231, 192);
    adapter.child("infiniband_mad/umad0", "infiniband_mad", 231, 0);
    tree.virtual_device("misc", "rdma_cm", 10, 58);
    let found = one(&tree.host(), pci("15b3", "0207", None));
    assert_eq!(
        files(&found),
        ["/dev/infiniband/umad0", "/dev/infiniband/uverbs0"]
    );
    let host = tree.host();
    let shared = host.file(Path::new("/dev/infiniband/rdma_cm"));
    let shared = shared.unwrap().unwrap();
    assert_eq!((shared.major, shared.minor), (10, 58));
}

#[test]
fn an_enclave_has_no_place_in_the_machine() {
    let tree = Tree::new();
    tree.virtual_device("misc", "sgx_enclave", 10, 125);
    let found = one(&tree.host(), path("/dev/sgx_enclave"));
    assert_eq!(found.key, "/dev/sgx_enclave");
    assert!(found.numa.is_empty());
    assert_eq!(field(&found, "subsystem"), "misc");
    for absent in ["pci", "usb", "numa", "serial", "driver", "id", "random"] {
        assert!(!found.fields.contains_key(absent), "{absent}");
    }
}

#[test]
fn a_file_that_sysfs_does_not_know_is_a_device_and_others_are_none() {
    let tree = Tree::new();
    tree.file("nvidia0", 195, 0);
    tree.folder("nvidia-caps");
    let host = tree.host();
    fs::write(host.dev.join("nvidia.txt"), "plain").unwrap();
    tree.link("nvidia-lost", "nothing");
    tree.link("nvidia-out", "/etc/passwd");
    tree.link("nvidia-loop", "nvidia-loop");
    let findings = host.find(&[path("/dev/nvidia*")]);
    assert_eq!(keys(&findings), ["/dev/nvidia0"]);
    assert_eq!(findings.found[0].site, None);
    assert_eq!(findings.problems, [""; 0]);
    let look = &findings.looks[0];
    assert_eq!(look.finder, "paths like /dev/nvidia*");
    assert_eq!((look.candidates, look.left.last().unwrap().1), (6, 1));
}

#[test]
fn a_folder_is_one_device_with_all_its_nodes() {
    let tree = Tree::new();
    for (address, numa, minor) in [("0000:17:00.0", 0, 0), ("0000:b1:00.0", 1, 1)] {
        let card = tree.pci(address).numa(numa);
        card.child(&format!("drm/card{minor}"), "drm", 226, minor)
            .link(&format!("board/one/{address}"));
    }
    tree.virtual_device("misc", "board_ctl", 10, 90)
        .link("board/two/ctl");
    tree.folder("board/three");
    let findings = tree.host().find(&[directory("/dev/board/*")]);
    assert_eq!(keys(&findings), ["/dev/board/one", "/dev/board/two"]);
    let board = &findings.found[0];
    assert_eq!(files(board), ["/dev/dri/card0", "/dev/dri/card1"]);
    assert_eq!(
        (board.numa.as_slice(), field(board, "name")),
        (&[0, 1][..], "one")
    );
    assert_eq!(board.site, None);
    assert_eq!(findings.looks[0].candidates, 3);
}

#[test]
fn attributes_and_properties_sieve_in_their_order() {
    let tree = Tree::new();
    for (name, minor, model) in [
        ("card0", 0, "fast"),
        ("card1", 1, "fast"),
        ("card2", 2, "slow"),
    ] {
        tree.virtual_device("accel", name, 261, minor)
            .attribute("model", model)
            .property("ID_TAG", &minor.to_string());
    }
    let finder = knowing(
        with(subsystem("accel", "card*"), "model", "fa?t"),
        "ID_TAG",
        "[1-9]",
    );
    let findings = tree.host().find(&[finder]);
    assert_eq!(keys(&findings), ["/dev/accel/card1"]);
    let left: Vec<_> = findings.looks[0]
        .left
        .iter()
        .map(|(words, left)| (&**words, *left))
        .collect();
    assert_eq!(
        left,
        [
            ("name card*", 3),
            ("attribute model fa?t", 2),
            ("property ID_TAG [1-9]", 1),
            ("a file in /dev", 1)
        ]
    );
}

#[test]
fn what_sysfs_tells_and_dev_lacks_is_left_out_and_explained() {
    let tree = Tree::new();
    serial_adapter(&tree);
    tree.remove_file("ttyUSB0");
    let host = tree.host();
    let findings = host.find(&[subsystem("tty", "*")]);
    assert_eq!(findings.found, []);
    let look = &findings.looks[0];
    assert_eq!(
        (look.candidates, &*look.left),
        (
            1,
            &[("name *".to_owned(), 1), ("a file in /dev".to_owned(), 0)][..]
        )
    );
    // Another device in its place isn't it.
    tree.file("ttyUSB0", 1, 3);
    assert_eq!(host.find(&[subsystem("tty", "*")]).found, []);
    let adapter = one(&host, usb("0403", None));
    assert_eq!(files(&adapter), ["/dev/bus/usb/001/004"]);
}

#[test]
fn what_is_unplugged_is_not_found_any_more() {
    let tree = Tree::new();
    let adapter = tree.usb("1-1", 1, 5).ids("1a86", "7523");
    adapter.child("1-1:1.0/ttyUSB0/tty/ttyUSB0", "tty", 188, 0);
    let host = tree.host();
    let finders = [usb("1a86", None), path("/dev/ttyUSB*")];
    assert_eq!(host.find(&finders).found.len(), 2);
    tree.unplug(adapter);
    let findings = host.find(&finders);
    assert_eq!(
        (findings.found, findings.problems),
        (Vec::new(), Vec::new())
    );
}

const GPUS: &str = "
cdiVersion: 1.1.0
kind: example.com/gpu
containerEdits: {env: [A=b]}
devices:
  - name: gpu0
    containerEdits:
      deviceNodes: [{path: /dev/dri/renderD128, permissions: rw}, {path: /dev/shared, hostPath: /dev/gpuctl}]
  - name: lost
    containerEdits: {deviceNodes: [{path: /dev/lost}]}
  - name: variables
    containerEdits: {env: [C=d]}
";

#[test]
fn what_cdi_describes_is_found_with_its_files() {
    let tree = Tree::new();
    tree.pci("0000:3b:00.0")
        .numa(1)
        .child("drm/renderD128", "drm", 226, 128);
    tree.virtual_device("misc", "gpuctl", 10, 99);
    tree.cdi("gpu.yaml", GPUS);
    tree.cdi(
        "other.json",
        r#"{"cdiVersion": "0.6.0", "kind": "example.com/other", "devices": [{"name": "x"}]}"#,
    );
    let findings = tree.host().find(&[cdi("example.com/gpu")]);
    assert_eq!(findings.problems, [""; 0]);
    assert_eq!(
        keys(&findings),
        ["example.com/gpu=gpu0", "example.com/gpu=variables"]
    );
    let gpu = &findings.found[0];
    assert_eq!(files(gpu), ["/dev/dri/renderD128", "/dev/gpuctl"]);
    assert_eq!(
        (field(gpu, "cdi"), field(gpu, "name")),
        ("example.com/gpu=gpu0", "gpu0")
    );
    assert_eq!(
        (gpu.numa.as_slice(), field(gpu, "pci")),
        (&[1][..], "0000:3b:00.0")
    );
    assert_eq!(findings.looks[0].candidates, 3);
}

#[test]
fn a_broken_specification_is_a_problem_and_the_stronger_one_holds() {
    let tree = Tree::new();
    let host = tree.host();
    let of = |node: &str| {
        format!(
            r#"{{"cdiVersion": "1.0.0", "kind": "a.io/x", "devices": [{{"name": "d", "containerEdits": {{"deviceNodes": [{{"path": "{node}"}}]}}}}]}}"#
        )
    };
    tree.file("weak", 1, 1);
    tree.file("strong", 1, 2);
    tree.cdi("a.json", &of("/dev/weak"));
    tree.cdi_for_now("a.json", &of("/dev/strong"));
    tree.cdi("broken.yaml", "kind: [");
    tree.cdi("large.json", &" ".repeat((1 << 20) + 1));
    tree.cdi(
        "future.json",
        r#"{"cdiVersion": "2.0.0", "kind": "a.io/x"}"#,
    );
    tree.cdi(
        "name.json",
        r#"{"cdiVersion": "1.0.0", "kind": "a.io/x", "devices": [{"name": "a b"}]}"#,
    );
    tree.cdi("ignored.txt", "no specification");
    symlink("nothing", host.cdi[0].join("lost.json")).unwrap();
    let findings = host.find(&[cdi("a.io/x")]);
    assert_eq!(keys(&findings), ["a.io/x=d"]);
    assert_eq!(files(&findings.found[0]), ["/dev/strong"]);
    let problems = findings.problems.join("\n");
    assert_eq!(findings.problems.len(), 5, "{problems}");
    for word in ["broken.yaml", "1024 KiB", "2.0.0", "\"a b\"", "lost.json"] {
        assert!(problems.contains(word), "{word}: {problems}");
    }
    // In one folder neither of two is the stronger.
    tree.cdi_for_now("b.json", &of("/dev/weak"));
    let findings = host.find(&[cdi("a.io/x")]);
    assert_eq!(files(&findings.found[0]), ["/dev/weak"]);
    assert!(
        findings
            .problems
            .iter()
            .any(|problem| problem.contains("twice"))
    );
}

#[test]
fn links_in_dev_mean_what_they_mean_on_the_node() {
    let tree = Tree::new();
    tree.virtual_device("misc", "real", 10, 1);
    tree.link("absolute", "/dev/real");
    tree.link("a/b/up", "../../absolute");
    tree.link("folder", "a/b");
    tree.link("out", "/proc/self/exe");
    tree.link("above", "../dev/real");
    tree.link("loop", "loop");
    let host = tree.host();
    for name in ["real", "absolute", "a/b/up", "folder/up"] {
        let file = host.file(&Path::new("/dev").join(name)).unwrap().unwrap();
        assert_eq!(file.path, Path::new("/dev/real"), "{name}");
        assert!(host.exists(&Path::new("/dev").join(name)));
    }
    for name in [
        "/dev/out",
        "/dev/above",
        "/dev/loop",
        "/dev/none",
        "/dev/real/x",
        "/dev/../etc/passwd",
        "/etc/passwd",
        "/dev/a",
    ] {
        assert_eq!(host.file(Path::new(name)).unwrap(), None, "{name}");
    }
    assert!(host.exists(Path::new("/dev/a")) && !host.exists(Path::new("/dev/none")));
    assert!(host.exists(Path::new("/sys/class/misc")) && !host.exists(Path::new("/sys/none")));
}

#[test]
fn what_cant_be_meant_is_a_problem_in_words() {
    let tree = Tree::new();
    let host = tree.host();
    let finders = [
        path("/dev/tty[0-9"),
        path("/etc/*"),
        path("/dev/../etc/passwd"),
        subsystem("../class", "*"),
        by(By::Random {
            least: 1,
            most: 2,
            every: Duration::from_secs(1),
        }),
    ];
    let findings = host.find(&finders);
    assert_eq!(findings.found, []);
    let problems = findings.problems.join("\n");
    assert_eq!(findings.problems.len(), 4, "{problems}");
    assert_eq!(findings.looks.len(), finders.len());
    assert_eq!(findings.looks[4].candidates, 0);
}

#[test]
fn what_the_agent_does_not_see_is_told() {
    let host = Tree::new().host();
    assert_eq!(host.find(&[path("/dev/kvm")]).problems.len(), 2);
    let findings = host.find(&[knowing(path("/dev/kvm"), "ID_MODEL", "*")]);
    let problems = findings.problems.join("\n");
    for place in ["/dev there", "/sys there", "/run/udev, or"] {
        assert!(problems.contains(place), "{problems}");
    }
}

#[test]
fn a_hostile_device_lengthens_nothing_and_forges_nothing() {
    let tree = Tree::new();
    let serial = format!("A\nDEVNAME=sda\u{1b}[2J{}", "x".repeat(5000));
    tree.usb("1-1", 1, 2).ids("dead", "beef").serial(&serial);
    let found = one(&tree.host(), usb("dead", None));
    assert_eq!(files(&found), ["/dev/bus/usb/001/002"]);
    let serial = field(&found, "serial");
    assert!(
        serial.len() < 2000 && !serial.contains(char::is_control),
        "{serial:?}"
    );
    assert!(!found.key.contains(char::is_control));
    // A name that leads out of /dev.
    let device = tree.virtual_device("misc", "evil", 10, 66);
    let uevent = device.sysfs().strip_prefix("/sys").unwrap().join("uevent");
    let uevent = tree.host().sys.join(uevent);
    fs::write(uevent, "MAJOR=10\nMINOR=66\nDEVNAME=../../etc/passwd\n").unwrap();
    assert_eq!(tree.host().find(&[subsystem("misc", "evil")]).found, []);
}

#[test]
fn a_device_without_an_end_is_looked_through_as_far_as_is_sensible() {
    let tree = Tree::new();
    let device = tree.pci("0000:01:00.0");
    let deep = "d/".repeat(40);
    device.child(&format!("{deep}deep"), "misc", 10, 1);
    for at in 0..1100 {
        device.child(&format!("many/m{at}"), "misc", 300, at);
    }
    let findings = tree.host().find(&[pci("*", "", None)]);
    assert!((1000..1100).contains(&findings.found[0].files.len()));
    assert!(
        findings.problems[0].contains("more folders and files"),
        "{:?}",
        findings.problems
    );
}

#[test]
fn folders_to_watch_are_those_in_which_findings_come_and_go() {
    let tree = Tree::new();
    serial_adapter(&tree);
    let host = tree.host();
    let below = |names: &[&str]| -> BTreeSet<_> {
        let dev = names.iter().map(|name| host.dev.join(name));
        dev.chain([host.dev.clone(), host.udev.clone()]).collect()
    };
    for (finder, names) in [
        (path("/dev/ttyUSB*"), &[][..]),
        (path("/dev/serial/by-id/*"), &["serial", "serial/by-id"]),
        (path("/dev/*/by-id/*"), &["bus", "serial", "serial/by-id"]),
        (
            directory("/dev/serial/*"),
            &["serial", "serial/by-id", "serial/by-path"],
        ),
        (path("/dev/absent/*"), &[]),
        (usb("*", None), &[]),
    ] {
        let words = format!("{finder:?}");
        assert_eq!(host.folders(&[finder]), below(names), "{words}");
    }
    let folders = host.folders(&[cdi("a.io/x")]);
    assert!(
        host.cdi
            .iter()
            .all(|cdi| folders.contains(cdi) && folders.contains(cdi.parent().unwrap()))
    );
}

#[test]
fn the_machines_own_null_device_is_found() {
    let found = one(&Host::default(), path("/dev/null"));
    let file = &found.files[0];
    assert_eq!(
        (file.kind, file.major, file.minor),
        (FileKind::Character, 1, 3)
    );
    assert_eq!(
        (&*found.key, files(&found)),
        ("/dev/null", vec!["/dev/null"])
    );
}
