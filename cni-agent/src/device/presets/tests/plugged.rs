//! Presets of what is plugged in: serial adapters and USB devices.

use super::*;

pub(super) const CASES: &[Case] = &[
    // The link by-id of the two that say the same, which only one of them has, names neither.
    Case {
        preset: "serial",
        node: desk,
        also: &[],
        expected: "
            squat.ai/serial: 4 devices
              0403:6001:A50285BI:1.0
                rw /dev/ttyUSB2
              1a86:7523:1-2.1:1.0
                rw /dev/ttyUSB0
              1a86:7523:1-2.2:1.0
                rw /dev/ttyUSB1
              1cf1:0030:DE2132111:1.0
                rw /dev/ttyACM0
              the first two together:
                rw /dev/ttyUSB0 /dev/ttyUSB2
        ",
    },
    Case {
        preset: "usb",
        node: desk,
        also: &[],
        expected: "
            fairlead.dev/usb: 5 devices
              0403:6001:A50285BI
                rw /dev/bus/usb/001/005 /dev/ttyUSB2
                USB_DEVICE=/dev/bus/usb/001/005
              046d:c31c:1-4
                rw /dev/bus/usb/001/007 /dev/input/event3
                USB_DEVICE=/dev/bus/usb/001/007
              1a86:7523:1-2.1
                rw /dev/bus/usb/001/003 /dev/ttyUSB0
                USB_DEVICE=/dev/bus/usb/001/003
              1a86:7523:1-2.2
                rw /dev/bus/usb/001/004 /dev/ttyUSB1
                USB_DEVICE=/dev/bus/usb/001/004
              1cf1:0030:DE2132111
                rw /dev/bus/usb/001/006 /dev/ttyACM0
                USB_DEVICE=/dev/bus/usb/001/006
              the first two together:
                rw /dev/bus/usb/001/005 /dev/bus/usb/001/007 /dev/input/event3 /dev/ttyUSB2
                USB_DEVICE=/dev/bus/usb/001/005,/dev/bus/usb/001/007
        ",
    },
    Case {
        preset: "serial",
        node: board,
        also: &[],
        expected: "squat.ai/serial: 0 devices",
    },
    // The controller tells where the memory is.
    Case {
        preset: "usb",
        node: |tree| {
            tree.pci_below("pci0000:00", "0000:00:14.0").numa(1);
            tree.usb("1-1", 1, 2).ids("18d1", "9302").serial("C0");
        },
        also: &[],
        expected: "
            fairlead.dev/usb: 1 device
              18d1:9302:C0 near 1
                rw /dev/bus/usb/001/002
                USB_DEVICE=/dev/bus/usb/001/002
        ",
    },
];

/// A hub with two adapters that have no numbers of their own, two that have, and a keyboard.
fn desk(tree: &Tree) {
    board(tree);
    tree.usb("1-2", 1, 2).ids("05e3", "0608").hub();
    for (at, port) in [(0, "1-2.1"), (1, "1-2.2")] {
        let adapter = tree.usb(port, 1, at + 3).ids("1a86", "7523");
        let adapter = adapter.interface(&format!("{port}:1.0"), "usb", "ch341");
        let place = format!("{port}:1.0/ttyUSB{at}/tty/ttyUSB{at}");
        adapter
            .child(&place, "tty", 188, at)
            .attribute("device/port_number", "0")
            .link(&format!(
                "serial/by-path/pci-0000:00:14.0-usb-0:2.{}:1.0-port0",
                at + 1
            ));
    }
    tree.link(
        "serial/by-id/usb-1a86_USB2.0-Serial-if00-port0",
        "../../ttyUSB1",
    );
    tree.usb("1-1", 1, 5)
        .ids("0403", "6001")
        .serial("A50285BI")
        .interface("1-1:1.0", "usb", "ftdi_sio")
        .child("1-1:1.0/ttyUSB2/tty/ttyUSB2", "tty", 188, 2)
        .attribute("device/port_number", "0")
        .link("serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0");
    tree.usb("1-3", 1, 6)
        .ids("1cf1", "0030")
        .serial("DE2132111")
        .interface("1-3:1.0", "usb", "cdc_acm")
        .interface("1-3:1.1", "usb", "cdc_acm")
        .child("1-3:1.0/tty/ttyACM0", "tty", 166, 0)
        .link("serial/by-id/usb-dresden_elektronik_ConBee_II_DE2132111-if00");
    tree.usb("1-4", 1, 7)
        .ids("046d", "c31c")
        .interface("1-4:1.0", "usb", "usbhid")
        .child(
            "1-4:1.0/0003:046D:C31C.0001/input/input3/event3",
            "input",
            13,
            67,
        );
}

/// Terminals that are no adapters: the board's, and those of the kernel itself.
fn board(tree: &Tree) {
    for (name, major, minor) in [
        ("ttyS0", 4, 64),
        ("ttyS1", 4, 65),
        ("tty0", 4, 0),
        ("tty", 5, 0),
        ("console", 5, 1),
        ("ttyprintk", 5, 3),
    ] {
        tree.virtual_device("tty", name, major, minor);
    }
}

#[test]
fn what_is_plugged_in_is_told_by_its_number_or_its_port() {
    check(CASES);
}
