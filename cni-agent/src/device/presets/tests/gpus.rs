//! Presets of GPUs.

use super::*;
use crate::device::host::fake::Device;

pub(super) const CASES: &[Case] = &[
    Case {
        preset: "amd-gpu",
        node: |tree| {
            amd(tree);
            tree.virtual_device("kfd", "kfd", 234, 0);
        },
        also: &[],
        expected: "
            amd.com/gpu: 2 devices
              0000:03:00.0 near 0
                rw /dev/dri/card1 /dev/dri/renderD128 /dev/kfd
              0000:43:00.0 near 1
                rw /dev/dri/card2 /dev/dri/renderD129 /dev/kfd
              the first two together:
                rw /dev/dri/card1 /dev/dri/card2 /dev/dri/renderD128 /dev/dri/renderD129 /dev/kfd
        ",
    },
    Case {
        preset: "amd-gpu",
        node: amd,
        also: &[],
        expected: "
            amd.com/gpu: 2 devices
              0000:03:00.0 near 0
                refused: device 0000:03:00.0 of amd.com/gpu: /dev/kfd, which it is given with, isn't there
              0000:43:00.0 near 1
                refused: device 0000:43:00.0 of amd.com/gpu: /dev/kfd, which it is given with, isn't there
        ",
    },
    Case {
        preset: "intel-gpu",
        node: intel,
        also: &[],
        expected: "
            gpu.intel.com/i915: 2 devices
              0000:00:02.0
                rw /dev/dri/card0 /dev/dri/renderD128
                mount ro /dev/dri/by-path/pci-0000:00:02.0-card
                mount ro /dev/dri/by-path/pci-0000:00:02.0-render
              0000:4d:00.0 near 1
                rw /dev/dri/card1 /dev/dri/renderD129
                mount ro /dev/dri/by-path/pci-0000:4d:00.0-card
                mount ro /dev/dri/by-path/pci-0000:4d:00.0-render
              the first two together:
                rw /dev/dri/card0 /dev/dri/card1 /dev/dri/renderD128 /dev/dri/renderD129
                mount ro /dev/dri/by-path/pci-0000:00:02.0-card
                mount ro /dev/dri/by-path/pci-0000:00:02.0-render
                mount ro /dev/dri/by-path/pci-0000:4d:00.0-card
                mount ro /dev/dri/by-path/pci-0000:4d:00.0-render
            gpu.intel.com/xe: 1 device
              0000:b1:00.0 near 0
                rw /dev/dri/card2 /dev/dri/renderD130
        ",
    },
    Case {
        preset: "nvidia-gpu",
        node: |tree| {
            nvidia(tree);
            tree.cdi_for_now("nvidia.yaml", NVIDIA);
            tree.cdi_for_now("nvidia-imex.yaml", IMEX);
        },
        also: &[],
        expected: "
            nvidia.com/gpu: 2 devices
              GPU-5c1d8ae1-7f0a-4d3b-9a52-0c2f4d7c2f10 near 1
                cdi nvidia.com/gpu=GPU-5c1d8ae1-7f0a-4d3b-9a52-0c2f4d7c2f10
              GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76 near 0
                cdi nvidia.com/gpu=GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76
              the first two together:
                cdi nvidia.com/gpu=GPU-5c1d8ae1-7f0a-4d3b-9a52-0c2f4d7c2f10
                cdi nvidia.com/gpu=GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76
        ",
    },
    // Without the toolkit's specification there is nothing to give.
    Case {
        preset: "nvidia-gpu",
        node: nvidia,
        also: &[],
        expected: "nvidia.com/gpu: 0 devices",
    },
];

/// The card and the render node of a function.
fn drm(function: &Device<'_>, card: u32, render: u32) {
    function.child(&format!("drm/card{card}"), "drm", 226, card);
    function.child(&format!("drm/renderD{render}"), "drm", 226, render);
}

/// The same with udev's links.
fn linked_drm(function: &Device<'_>, address: &str, card: u32, render: u32) {
    function
        .child(&format!("drm/card{card}"), "drm", 226, card)
        .link(&format!("dri/by-path/pci-{address}-card"));
    function
        .child(&format!("drm/renderD{render}"), "drm", 226, render)
        .link(&format!("dri/by-path/pci-{address}-render"));
}

/// The screen of the board's management.
fn screen(tree: &Tree, card: u32) {
    let screen = tree.pci("0000:c4:00.0").ids("1a03", "2000").class("030000");
    let screen = screen.driver("ast");
    screen.child(&format!("drm/card{card}"), "drm", 226, card);
}

/// Two cards behind bridges; a card that a virtual machine has, one with the older driver, sound, and a screen.
fn amd(tree: &Tree) {
    screen(tree, 0);
    let place = "pci0000:00/0000:00:01.1/0000:01:00.0/0000:02:00.0";
    let first = tree
        .pci_below(place, "0000:03:00.0")
        .ids("1002", "740f")
        .class("038000")
        .driver("amdgpu")
        .numa(0)
        .iommu_group(14);
    drm(&first, 1, 128);
    first.child("i2c-4/i2c-dev/i2c-4", "i2c-dev", 89, 4);
    tree.pci_below(place, "0000:03:00.1")
        .ids("1002", "ab38")
        .class("040300")
        .driver("snd_hda_intel")
        .child("sound/card0/controlC0", "sound", 116, 2);
    let second = tree.pci("0000:43:00.0").ids("1002", "740f").class("038000");
    drm(&second.driver("amdgpu").numa(1), 2, 129);
    tree.pci("0000:63:00.0")
        .ids("1002", "740f")
        .class("038000")
        .driver("vfio-pci")
        .iommu_group(20)
        .child("vfio-dev/vfio0", "vfio-dev", 511, 0);
    let older = tree.pci("0000:83:00.0").ids("1002", "6819").class("030000");
    drm(&older.driver("radeon"), 3, 130);
    tree.pci("0000:a3:00.0").ids("1002", "740f").class("038000");
}

/// One in the processor and one that isn't with `i915`, one with `xe` that udev has no links for; one that a virtual
/// machine has, one without a driver, and other functions of Intel.
fn intel(tree: &Tree) {
    screen(tree, 3);
    let (inner, outer) = ("0000:00:02.0", "0000:4d:00.0");
    let own = tree.pci(inner).ids("8086", "4680").class("030000");
    linked_drm(&own.driver("i915"), inner, 0, 128);
    let discrete = tree
        .pci_below("pci0000:4a/0000:4a:02.0/0000:4b:00.0/0000:4c:01.0", outer)
        .ids("8086", "56c0")
        .class("038000")
        .driver("i915")
        .numa(1);
    linked_drm(&discrete, outer, 1, 129);
    discrete.child("drm/controlD65", "drm", 226, 65);
    discrete.child("i915.mei-gsc.768/mei/mei1", "mei", 236, 1);
    let newer = tree.pci("0000:b1:00.0").ids("8086", "e20b").class("030000");
    drm(&newer.driver("xe").numa(0), 2, 130);
    tree.pci("0000:b5:00.0")
        .ids("8086", "56c0")
        .class("038000")
        .driver("vfio-pci")
        .iommu_group(31);
    tree.pci("0000:b9:00.0").ids("8086", "56c0").class("038000");
    tree.pci("0000:00:1f.3")
        .ids("8086", "7ad0")
        .class("040300")
        .driver("snd_hda_intel");
    tree.pci("0000:18:00.0")
        .ids("8086", "1572")
        .class("020000")
        .driver("i40e");
}

/// Two GPUs, whose own files sysfs doesn't know.
fn nvidia(tree: &Tree) {
    screen(tree, 0);
    for (address, numa, at) in [("0000:17:00.0", 0, 0), ("0000:ca:00.0", 1, 1)] {
        let gpu = tree.pci(address).ids("10de", "2330").class("030200");
        drm(&gpu.driver("nvidia").numa(numa), at + 1, at + 128);
        tree.file(&format!("nvidia{at}"), 195, at);
    }
    tree.file("nvidiactl", 195, 255);
    tree.file("nvidia-uvm", 507, 0);
    tree.file("nvidia-uvm-tools", 507, 1);
}

/// Each by its number and by its UUID, all together, one that has fallen off its bus, and a part of one.
const NVIDIA: &str = "
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  deviceNodes: [{path: /dev/nvidiactl}, {path: /dev/nvidia-uvm}, {path: /dev/nvidia-uvm-tools}]
  env: [NVIDIA_VISIBLE_DEVICES=void]
devices:
- name: '0'
  containerEdits: &first
    deviceNodes: [{path: /dev/nvidia0}, {path: /dev/dri/card1}, {path: /dev/dri/renderD128}]
- name: GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76
  containerEdits: *first
- name: '1'
  containerEdits: &second
    deviceNodes: [{path: /dev/nvidia1}, {path: /dev/dri/card2}, {path: /dev/dri/renderD129}]
- name: GPU-5c1d8ae1-7f0a-4d3b-9a52-0c2f4d7c2f10
  containerEdits: *second
- name: GPU-d1a90b33-9a54-4f6c-8e37-0a4ec2bf6c55
  containerEdits: {deviceNodes: [{path: /dev/nvidia2}]}
- name: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
- name: all
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}, {path: /dev/nvidia1}]}
";

const IMEX: &str = "
cdiVersion: 0.5.0
kind: nvidia.com/imex-channel
devices:
- name: GPU-0
  containerEdits: {env: [A=b]}
";

#[test]
fn gpus_are_those_with_the_vendors_driver() {
    check(CASES);
}
