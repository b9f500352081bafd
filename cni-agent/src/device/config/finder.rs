//! PURE: one way to find devices, of the list `find`.

use super::{fields::Fields, reader::At, words};
use crate::device::plan::{By, Finder, Pattern};
use std::{collections::BTreeMap, time::Duration};

/// The ways, of which each entry has one.
const WAYS: [&str; 7] = [
    "path",
    "directory",
    "usb",
    "pci",
    "subsystem",
    "cdi",
    "random",
];
/// Most attributes and properties of one way.
const MOST_CONDITIONS: usize = 32;
/// Most devices of the example.
const MOST_RANDOM: u32 = 1000;
/// Between two answers of the example.
const RANDOM_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

pub(super) fn finder(at: &At<'_>) -> Option<Finder> {
    if let Some(text) = at.as_text() {
        at.fault(format!(
            "{text:?} doesn't say how it finds; write `path: {text}`"
        ));
        return None;
    }
    let known: Vec<&str> = WAYS
        .iter()
        .copied()
        .chain(["name", "attributes", "properties"])
        .collect();
    let fields = at.fields(&known)?;
    let ways: Vec<&str> = WAYS.into_iter().filter(|way| fields.has(way)).collect();
    let way = match ways.as_slice() {
        [way] => *way,
        [] if fields.has_unknown => return None,
        [] => {
            at.fault(format!(
                "says no way to find; write one of {}",
                WAYS.join(", ")
            ));
            return None;
        }
        several => {
            at.fault(format!(
                "has {}; write each as an entry of its own, beginning with `-`",
                several.join(" and ")
            ));
            return None;
        }
    };
    let conditions = conditions(&fields, way);
    let by = fields.get(way).and_then(|value| by(&fields, way, &value));
    if !matches!(way, "subsystem" | "cdi")
        && let Some(name) = fields.get("name")
    {
        name.fault(format!(
            "goes with `subsystem` and `cdi`, and this entry has `{way}`; remove it"
        ));
        return None;
    }
    let (attributes, properties) = conditions?;
    let by = by?;
    is_narrow(at, &by, attributes.is_empty() && properties.is_empty())?;
    Some(Finder {
        by,
        attributes,
        properties,
    })
}

fn by(fields: &Fields<'_>, way: &str, value: &At<'_>) -> Option<By> {
    let path = || {
        let text = value.text(words::LONGEST_TEXT)?;
        value.sound(words::device_pattern(text))
    };
    match way {
        "path" => path().map(By::Path),
        "directory" => path().map(By::Directory),
        "usb" => usb(value),
        "pci" => pci(value),
        "subsystem" => {
            let subsystem = value.text(words::LONGEST_NAME).and_then(|text| {
                value.sound(words::word(text))?;
                if words::is_pattern(text) {
                    value.fault(format!(
                        "{text:?} is a pattern; write one class or bus of sysfs, like tty"
                    ));
                    return None;
                }
                Some(text.to_owned())
            });
            let name = fields.maybe("name", |at| pattern_of_name(&at));
            Some(By::Subsystem {
                subsystem: subsystem?,
                name: name?,
            })
        }
        "cdi" => {
            let kind = value.text(words::LONGEST_NAME).and_then(|kind| {
                value.sound(words::cdi_kind(kind))?;
                Some(kind.to_owned())
            });
            let name = fields.maybe("name", |at| pattern_of_name(&at));
            Some(By::Cdi {
                kind: kind?,
                name: name?,
            })
        }
        _ => random(value),
    }
}

fn usb(at: &At<'_>) -> Option<By> {
    let fields = at.fields(&["vendor", "product", "serial"])?;
    let vendor = fields.maybe("vendor", |at| hexadecimal(&at));
    let product = fields.maybe("product", |at| hexadecimal(&at));
    let serial = fields.maybe("serial", |at| {
        let text = at.text(words::LONGEST_NAME)?;
        at.sound(words::pattern(text))
    });
    (!fields.has_unknown).then_some(())?;
    Some(By::Usb {
        vendor: vendor?,
        product: product?,
        serial: serial?,
    })
}

fn pci(at: &At<'_>) -> Option<By> {
    let fields = at.fields(&["vendor", "device", "class", "driver", "address"])?;
    let vendor = fields.maybe("vendor", |at| hexadecimal(&at));
    let device = fields.maybe("device", |at| hexadecimal(&at));
    let class = fields.maybe("class", |at| {
        let text = at.text(words::LONGEST_NAME)?;
        at.sound(words::class(text))
    });
    let driver = fields.maybe("driver", |at| pattern_of_name(&at));
    let address = fields.maybe("address", |at| {
        let text = at.text(words::LONGEST_NAME)?;
        at.sound(words::pci_address(text))
    });
    (!fields.has_unknown).then_some(())?;
    Some(By::Pci {
        vendor: vendor?,
        device: device?,
        class: class?,
        driver: driver?,
        address: address?,
    })
}

fn random(at: &At<'_>) -> Option<By> {
    let fields = at.fields(&["least", "most", "every"])?;
    let remedy = "write so many devices as there should be, like 1";
    let least = fields.must("least", remedy, |at| at.number(1..=MOST_RANDOM));
    let most = fields.must("most", remedy, |at| at.number(1..=MOST_RANDOM));
    let every = fields.must(
        "every",
        "write the time until they are others, like 5s",
        |at| at.duration(RANDOM_EVERY.0, RANDOM_EVERY.1),
    );
    let (least, most, every) = (least?, most?, every?);
    if most < least {
        at.fault(format!(
            "has at least {least} devices and at most {most}; write the smaller one into `least`"
        ));
        return None;
    }
    Some(By::Random { least, most, every })
}

/// Of hardware: four digits, as it prints them.
fn hexadecimal(at: &At<'_>) -> Option<Pattern> {
    let text = at.text(words::LONGEST_NAME)?;
    at.sound(words::hexadecimal(text, 4))
}

fn pattern_of_name(at: &At<'_>) -> Option<Pattern> {
    let text = at.text(words::LONGEST_NAME)?;
    at.sound(words::word(text))?;
    at.sound(words::pattern(text))
}

type Conditions = BTreeMap<String, Pattern>;

fn conditions(fields: &Fields<'_>, way: &str) -> Option<(Conditions, Conditions)> {
    let read = |name: &str, example: &str, check: fn(&str) -> Result<(), String>| {
        let Some(at) = fields.get(name) else {
            return Some(BTreeMap::new());
        };
        if way == "random" {
            at.fault(format!("what `{way}` finds has no {name}; remove them"));
            return None;
        }
        let entries = at.entries(MOST_CONDITIONS, example)?;
        // All are read before any is missed, so that all faults are told.
        let read = entries.into_iter().map(|(name, at)| {
            let known = at.sound(check(name));
            let text = at.text(words::LONGEST_NAME)?;
            let pattern = at.sound(words::pattern(text))?;
            known.map(|()| (name.to_owned(), pattern))
        });
        read.collect::<Vec<_>>().into_iter().collect()
    };
    let attributes = read("attributes", "{bcdDevice: \"0600\"}", words::attribute);
    let properties = read("properties", "{ID_MODEL: FT232*}", words::variable);
    Some((attributes?, properties?))
}

/// Refuses what would be nearly everything that the node has.
fn is_narrow(at: &At<'_>, by: &By, has_no_conditions: bool) -> Option<()> {
    let everything = match by {
        By::Usb {
            vendor: None,
            product: None,
            serial: None,
        } => {
            "is every USB device, keyboards too; write its vendor, or `vendor: \"*\"`, if that is meant"
        }
        By::Pci {
            vendor: None,
            device: None,
            class: None,
            driver: None,
            address: None,
        } => "is every PCI function; write at least its vendor or class",
        By::Subsystem {
            subsystem,
            name: None,
        } if matches!(subsystem.as_str(), "block" | "mem" | "pci" | "usb") => {
            "is all of it, what the node runs on too; write also `name`, `attributes` or `properties`"
        }
        _ => return Some(()),
    };
    if has_no_conditions {
        at.fault(everything);
        return None;
    }
    Some(())
}
