//! Whatever is plugged in, and in whatever order it came: names are unique, files are below /dev, looks are the same.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Plugged {
    /// Vendor, serial number, terminals on its first interface; or a hub.
    Usb {
        vendor: &'static str,
        serial: &'static str,
        terminals: u32,
        is_hub: bool,
    },
    /// Driver, whether it is behind a bridge, files of its own.
    Pci {
        driver: &'static str,
        is_behind: bool,
        files: u32,
    },
}

/// Numbers that say nothing, the same ones, and such as look like ports, interfaces, or ways out.
const SERIALS: &[&str] = &[
    "", "0001", "A5", "1-1", "0001:1-1", "1:1.0", "../../x", ":", "0",
];

fn plugged() -> impl Strategy<Value = Plugged> {
    let usb = (
        prop::sample::select(&["0403", "1a86"][..]),
        prop::sample::select(SERIALS),
        0..4_u32,
        prop::bool::weighted(0.1),
    );
    let usb = usb.prop_map(|(vendor, serial, terminals, is_hub)| Plugged::Usb {
        vendor,
        serial,
        terminals,
        is_hub,
    });
    let driver = prop::sample::select(&["amdgpu", "vfio-pci", ""][..]);
    let pci = (driver, any::<bool>(), 0..3_u32);
    let pci = pci.prop_map(|(driver, is_behind, files)| Plugged::Pci {
        driver,
        is_behind,
        files,
    });
    prop_oneof![usb, pci]
}

/// The device at the place with this number, always the same.
fn plug(tree: &Tree, at: u32, device: &Plugged) {
    match device {
        Plugged::Usb {
            vendor,
            serial,
            terminals,
            is_hub,
        } => {
            // Some are behind others, hubs or not.
            let port = match at % 3 {
                0 => format!("1-{}", at + 1),
                _ => format!("1-{}.{at}", at - at % 3 + 1),
            };
            let usb = tree.usb(&port, 1, at + 2).ids(vendor, "6001");
            let usb = match *serial {
                "" => usb,
                serial => usb.serial(serial),
            };
            for terminal in 0..*terminals {
                let number = at * 4 + terminal;
                let place = format!("{port}:1.0/ttyUSB{number}/tty/ttyUSB{number}");
                usb.child(&place, "tty", 188, number);
            }
            if *is_hub {
                usb.hub();
            }
        }
        Plugged::Pci {
            driver,
            is_behind,
            files,
        } => {
            let address = format!("0000:{:02x}:00.0", 0x20 + at);
            let place = match is_behind {
                true => "pci0000:10/0000:10:01.0",
                false => "pci0000:20",
            };
            let function = tree.pci_below(place, &address).ids("1002", "740f");
            let function = match *driver {
                "" => function,
                driver => function.driver(driver),
            };
            for file in 0..*files {
                let name = format!("drm/renderD{}", 128 + at * 4 + file);
                function.child(&name, "drm", 226, 128 + at * 4 + file);
            }
        }
    }
}

fn finders() -> Vec<Vec<Finder>> {
    let all = [
        usb("*", None),
        usb("0403", Some("*")),
        pci("*", "", None),
        pci("1002", "", Some("*")),
        subsystem("tty", "ttyUSB*"),
        path("/dev/ttyUSB*"),
        path("/dev/bus/usb/*/*"),
        subsystem("drm", "*"),
        directory("/dev/dri"),
    ];
    let each = all.iter().map(|finder| vec![finder.clone()]);
    each.chain([all.to_vec()]).collect()
}

/// Without what is another's on every node.
fn plain(mut findings: Findings) -> Findings {
    for site in findings
        .found
        .iter_mut()
        .filter_map(|found| found.site.as_mut())
    {
        site.instance = None;
    }
    findings
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn names_are_unique_files_are_below_dev_and_the_order_is_one(
        devices in prop::collection::vec(plugged(), 0..9)
    ) {
        let devices: Vec<(u32, Plugged)> = (0..).zip(devices).collect();
        let (tree, other) = (Tree::new(), Tree::new());
        for (at, device) in &devices {
            plug(&tree, *at, device);
        }
        for (at, device) in devices.iter().rev() {
            plug(&other, *at, device);
        }
        for finders in finders() {
            let findings = tree.host().find(&finders);
            let keys = keys(&findings);
            prop_assert!(keys.is_sorted());
            let unique: BTreeSet<&str> = keys.iter().copied().collect();
            prop_assert_eq!(unique.len(), keys.len(), "{:?}", keys);
            prop_assert!(!unique.contains(""));
            for found in &findings.found {
                prop_assert!(found.files.is_sorted());
                for file in files(found) {
                    prop_assert!(file.starts_with("/dev/") && !file.contains(".."), "{}", file);
                }
            }
            prop_assert_eq!(&findings.problems, &[""; 0]);
            prop_assert_eq!(plain(findings), plain(other.host().find(&finders)));
        }
    }
}
