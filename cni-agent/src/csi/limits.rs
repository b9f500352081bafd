//! PURE: limits of a volume that can change while pods have it (VolumeAttributesClass): read from words, and as a control
//! group takes them.

use super::{fault::Fault, request::Backing};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt::Write as _};

const FIELD: &str = "mutable_parameters";

/// Limits; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Limits {
    pub(super) read_bytes_per_second: u64,
    pub(super) write_bytes_per_second: u64,
    pub(super) read_operations_per_second: u64,
    pub(super) write_operations_per_second: u64,
    /// Of a directory; 0: as many as its size lets.
    pub(super) max_files: u64,
}

impl Limits {
    /// Reads them all: what isn't named is no limit.
    pub(super) fn read(asked: &HashMap<String, String>) -> Result<Self, Fault> {
        let mut read = Self::default();
        for (key, value) in asked {
            let field = match key.as_str() {
                "readBytesPerSecond" => &mut read.read_bytes_per_second,
                "writeBytesPerSecond" => &mut read.write_bytes_per_second,
                "readOperationsPerSecond" => &mut read.read_operations_per_second,
                "writeOperationsPerSecond" => &mut read.write_operations_per_second,
                "maxFiles" => &mut read.max_files,
                key => {
                    return Err(Fault::invalid(
                        FIELD,
                        format!(
                            "{key:?} is not known; there are readBytesPerSecond, writeBytesPerSecond, readOperationsPerSecond, writeOperationsPerSecond and maxFiles"
                        ),
                    ));
                }
            };
            *field = value.parse().map_err(|_| {
                Fault::invalid(
                    FIELD,
                    format!("{key}: {value:?} is no number; write a whole one, or 0 for no limit"),
                )
            })?;
        }
        Ok(read)
    }

    /// Whether a volume can have them. `bounded`: a quota keeps it to its size.
    pub(super) fn fit(&self, backing: Backing, bounded: bool) -> Result<(), Fault> {
        let is = backing.as_str();
        if self.has_rates() && backing != Backing::Image {
            return Err(Fault::invalid(
                FIELD,
                format!(
                    "bound reading or writing, and a {is} has no device of its own that could be bounded; use a class of backend: image"
                ),
            ));
        }
        let counts = backing == Backing::Directory && bounded;
        if self.max_files != 0 && !counts {
            return Err(Fault::invalid(
                FIELD,
                format!(
                    "maxFiles: nothing counts the files of this {is}; use a class of backend: directory on a node with quotas"
                ),
            ));
        }
        Ok(())
    }

    /// Whether anything bounds reading or writing.
    pub(super) const fn has_rates(&self) -> bool {
        self.read_bytes_per_second != 0
            || self.write_bytes_per_second != 0
            || self.read_operations_per_second != 0
            || self.write_operations_per_second != 0
    }

    /// As `io.max` of a control group takes them for a device (cgroup-v2.rst).
    pub(super) fn line(&self, device: (u32, u32)) -> String {
        let mut line = format!("{}:{}", device.0, device.1);
        for (word, limit) in [
            ("rbps", self.read_bytes_per_second),
            ("wbps", self.write_bytes_per_second),
            ("riops", self.read_operations_per_second),
            ("wiops", self.write_operations_per_second),
        ] {
            let _always = match limit {
                0 => write!(line, " {word}=max"),
                limit => write!(line, " {word}={limit}"),
            };
        }
        line
    }

    /// Whether what a control group shows of all of its devices has them for this one.
    pub(super) fn are_in(&self, device: (u32, u32), shown: &str) -> bool {
        let number = format!("{}:{}", device.0, device.1);
        let mut lines = shown.lines();
        match lines.find(|line| line.split(' ').next() == Some(&number)) {
            Some(found) => found.trim() == self.line(device),
            // What has no limit isn't shown.
            None => !self.has_rates(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Limits, Fault> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Limits::read(&pairs.collect())
    }

    #[test]
    fn what_is_named_is_a_limit_and_nothing_else() {
        let limits = read(&[
            ("readBytesPerSecond", "1000"),
            ("writeOperationsPerSecond", "0"),
        ]);
        let expected = Limits {
            read_bytes_per_second: 1000,
            ..Limits::default()
        };
        assert_eq!(limits, Ok(expected));
        assert_eq!(read(&[]), Ok(Limits::default()));
        for pairs in [
            [("iops", "1")],
            [("maxFiles", "-1")],
            [("readBytesPerSecond", "1Mi")],
        ] {
            let fault = read(&pairs).unwrap_err();
            assert_eq!(fault.code(), tonic::Code::InvalidArgument, "{fault}");
        }
    }

    #[test]
    fn a_volume_has_limits_that_something_enforces() {
        let rates = read(&[("writeBytesPerSecond", "1")]).unwrap();
        let files = read(&[("maxFiles", "1")]).unwrap();
        let cases = [
            (rates, Backing::Image, true, true),
            (rates, Backing::Btrfs, true, false),
            (rates, Backing::Directory, true, false),
            (files, Backing::Image, true, false),
            (files, Backing::Btrfs, true, false),
            (files, Backing::Directory, true, true),
            (files, Backing::Directory, false, false),
            (Limits::default(), Backing::Directory, false, true),
        ];
        for (limits, backing, bounded, fits) in cases {
            let outcome = limits.fit(backing, bounded);
            assert_eq!(outcome.is_ok(), fits, "{limits:?} {backing:?}");
        }
    }

    #[test]
    fn a_control_groups_words_are_written_and_read() {
        let limits = read(&[
            ("readBytesPerSecond", "5"),
            ("writeOperationsPerSecond", "7"),
        ]);
        let limits = limits.unwrap();
        let line = "7:3 rbps=5 wbps=max riops=max wiops=7";
        assert_eq!(limits.line((7, 3)), line);
        let shown = format!("7:30 rbps=1 wbps=max riops=max wiops=max\n{line}\n");
        assert!(limits.are_in((7, 3), &shown));
        assert!(!limits.are_in((7, 30), &shown));
        assert!(!limits.are_in((7, 4), &shown));
        assert!(Limits::default().are_in((7, 4), &shown));
        assert!(!Limits::default().are_in((7, 3), &shown));
    }

    #[test]
    fn a_record_of_an_earlier_agent_has_no_limits() {
        let read = serde_json::from_str::<Limits>("{}").unwrap();
        assert_eq!(read, Limits::default());
    }
}
