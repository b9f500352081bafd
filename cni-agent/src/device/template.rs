//! PURE: texts with places for what is known of a device: `by-{serial}`. `{{` and `}}` are the braces themselves.

use super::nearest::nearest;
use std::{collections::BTreeMap, fmt};

/// What can be asked of every device, in a template. Others may be empty, depending on what it is.
pub const FIELDS: [(&str, &str); 19] = [
    ("id", "the id that the kubelet has"),
    ("name", "the kernel's name, or the last part of the path"),
    ("path", "the path of its first file"),
    ("major", "the major number of its first file"),
    ("minor", "the minor number of its first file"),
    ("serial", "its serial number"),
    ("pci", "the PCI address"),
    ("pciRoot", "the PCI root complex that it is below"),
    ("pciSlot", "the PCI address without the function"),
    (
        "physfn",
        "of a virtual function: the PCI address of its physical one",
    ),
    ("iommuGroup", "the number of its IOMMU group"),
    ("numa", "the number of its NUMA node"),
    ("driver", "the driver that it is bound to"),
    ("vendor", "the vendor's number, in hexadecimal digits"),
    ("device", "the device's number, in hexadecimal digits"),
    ("subsystem", "the class or bus of sysfs"),
    ("usb", "the USB port, like 1-2.3"),
    (
        "cdi",
        "the whole name that a CDI specification has for it, like vendor.com/gpu=0",
    ),
    (
        "random",
        "sixteen random hexadecimal digits, anew each time",
    ),
];

/// A text with places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Text(String),
    /// A field, or a property of udev by `udev:NAME`.
    Field(String),
}

impl Template {
    /// # Errors
    /// A brace that is not closed, or a field that no device has: worded for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match (c, rest.peek()) {
                ('{', Some('{')) | ('}', Some('}')) => {
                    rest.next();
                    plain.push(c);
                }
                ('}', _) => {
                    return Err(format!(
                        "{text:?} has a `}}` without a `{{`; write `}}}}` for the brace itself"
                    ));
                }
                ('{', _) => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => {
                                return Err(format!(
                                    "{text:?} has a `{{` without a `}}`; write `{{{{` for the brace itself"
                                ));
                            }
                        }
                    }
                    let is_property = name
                        .strip_prefix("udev:")
                        .is_some_and(|name| !name.is_empty());
                    if !is_property && !FIELDS.iter().any(|(field, _)| *field == name) {
                        let known: Vec<&str> = FIELDS.iter().map(|(field, _)| *field).collect();
                        let remedy = match nearest(&name, &known) {
                            Some(near) => format!("write {{{near}}}"),
                            None => format!("write one of {}, or udev:PROPERTY", known.join(", ")),
                        };
                        return Err(format!(
                            "{text:?} asks for {name:?}, which devices don't have; {remedy}"
                        ));
                    }
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Field(name));
                }
                _ => plain.push(c),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// The text for a device whose fields are `values`.
    ///
    /// # Errors
    /// The first field that it doesn't have.
    pub fn fill(&self, values: &BTreeMap<String, String>) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Field(name) => text.push_str(values.get(name).ok_or_else(|| name.clone())?),
            }
        }
        Ok(text)
    }

    /// As `fill`, for a path. What a device tells of itself must lead nowhere else: a field with a `/`, except `path`, or
    /// with a control character is one that the device doesn't have, and so is the one that makes a `.` or `..`.
    ///
    /// # Errors
    /// The first field that it doesn't have.
    pub fn fill_path(&self, values: &BTreeMap<String, String>) -> Result<String, String> {
        let strange = |piece: &&Piece| match piece {
            Piece::Field(name) => values.get(name).is_some_and(|value| {
                (name != "path" && value.contains('/')) || value.contains(char::is_control)
            }),
            Piece::Text(_) => false,
        };
        let name = |piece: &Piece| match piece {
            Piece::Field(name) => Some(name.clone()),
            Piece::Text(_) => None,
        };
        if let Some(field) = self.0.iter().find(strange).and_then(name) {
            return Err(field);
        }
        let path = self.fill(values)?;
        let goes_down = path.split('/').all(|part| part != "." && part != "..");
        match self.0.iter().find_map(name) {
            Some(field) if !goes_down => Err(field),
            _ => Ok(path),
        }
    }

    /// What it may become, to look at its shape: `x` for each field, except for those that are more than a word.
    pub fn sample(&self) -> String {
        let sample = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Field(name) if name == "path" => "/dev/x".to_owned(),
            Piece::Field(name) if name == "cdi" => "x/x=x".to_owned(),
            Piece::Field(_) => "x".to_owned(),
        };
        self.0.iter().map(sample).collect()
    }

    /// Whether it is the same for every device.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// Whether a field is in it.
    pub fn asks_for(&self, field: &str) -> bool {
        self.0
            .iter()
            .any(|piece| matches!(piece, Piece::Field(name) if name == field))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Piece::Field(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_and_doubled_braces_stay() {
        let values = [("serial", "A1"), ("udev:ID_MODEL", "FT232")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let text = "by-{serial}-{udev:ID_MODEL}-{{x}}";
        let template = Template::parse(text).unwrap();
        assert_eq!(template.fill(&values).unwrap(), "by-A1-FT232-{x}");
        assert_eq!(template.to_string(), text);
        assert!(template.asks_for("serial") && !template.asks_for("pci"));
        let missing = Template::parse("{pci}").unwrap().fill(&values);
        assert_eq!(missing.unwrap_err(), "pci");
    }

    #[test]
    fn a_path_goes_nowhere_else_whatever_a_device_says_of_itself() {
        let values = |serial: &str| {
            [("serial", serial), ("path", "/dev/a/b")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        };
        let path =
            |text: &str, serial: &str| Template::parse(text).unwrap().fill_path(&values(serial));
        assert_eq!(path("/dev/x/{serial}", "A1").unwrap(), "/dev/x/A1");
        assert_eq!(path("/dev/x-{serial}", "..").unwrap(), "/dev/x-..");
        assert_eq!(path("{path}", "A1").unwrap(), "/dev/a/b");
        for serial in ["../mem", "..", ".", "a/b", "a\n"] {
            assert_eq!(path("/dev/x/{serial}", serial).unwrap_err(), "serial");
        }
        assert_eq!(path("/dev/x/{serial}{serial}", ".").unwrap_err(), "serial");
        let template = Template::parse("/dev/{serial}/{{").unwrap();
        assert_eq!(template.sample(), "/dev/x/{");
        assert!(!template.is_plain() && Template::parse("{{a}}").unwrap().is_plain());
    }

    #[test]
    fn what_is_no_field_is_told_with_those_that_are() {
        for (text, word) in [
            ("{serail}", "write {serial}"),
            ("{iommu_group}", "write {iommuGroup}"),
            ("{colour}", "udev:PROPERTY"),
            ("{udev:}", "udev:PROPERTY"),
            ("{serial", "{{"),
            ("serial}", "}}"),
        ] {
            let problem = Template::parse(text).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
    }
}
