//! PURE: what is asked for, read once into types of our own. Every fault names its field; arguments are checked before
//! it is looked for what they name (section "Error Scheme" of the specification).

use super::{fault::Fault, records::ObjectName};
use node_api::csi::{
    CapacityRange, VolumeCapability,
    volume_capability::{AccessType, access_mode::Mode as ApiMode},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, path::PathBuf};

/// Longest name; ids and the like have as much (section "Size Limits").
const LONGEST: usize = 128;
/// What a volume has if nobody says: as the example driver.
const USUAL_BYTES: u64 = 1 << 30;
/// XFS can't be made smaller (300 MiB), and images of less serve nobody.
const LEAST_BYTES: u64 = 1 << 20;
/// Files of ext4 with 4 KiB blocks end here; nobody's disk is larger.
const MOST_BYTES: u64 = 16 << 40;
/// Of a volume's device; see `kernel::BLOCK`.
const BLOCK: u64 = 4096;

/// A file system in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fs {
    Ext4,
    Xfs,
    /// None of its own: a folder of the pool's, which nobody names.
    Folder,
}

impl Fs {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Folder => "the pool's file system",
        }
    }

    fn parse(field: &'static str, text: &str) -> Result<Self, Fault> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            other => Err(Fault::invalid(
                field,
                format!("{other:?} is no file system that is made here; write ext4 or xfs"),
            )),
        }
    }
}

/// How a volume is given to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Access {
    Block,
    Mount {
        /// None: the volume's own.
        fs: Option<Fs>,
        flags: Vec<String>,
    },
}

/// Who may have it at a time. All of one node: a volume is on one node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Mode {
    /// Any number of pods.
    Writers,
    Readers,
    /// One at a time.
    OneWriter,
}

/// One way in which a volume is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Capability {
    pub(super) access: Access,
    pub(super) mode: Mode,
}

/// Reads a capability.
pub(super) fn capability(asked: Option<&VolumeCapability>) -> Result<Capability, Fault> {
    const FIELD: &str = "volume_capability";
    let asked = asked.ok_or_else(|| Fault::missing(FIELD))?;
    let mode = asked
        .access_mode
        .as_ref()
        .map_or(ApiMode::Unknown, |mode| mode.mode());
    let mode = match mode {
        ApiMode::Unknown => return Err(Fault::missing("volume_capability.access_mode")),
        ApiMode::SingleNodeWriter | ApiMode::SingleNodeMultiWriter => Mode::Writers,
        ApiMode::SingleNodeReaderOnly => Mode::Readers,
        ApiMode::SingleNodeSingleWriter => Mode::OneWriter,
        ApiMode::MultiNodeReaderOnly
        | ApiMode::MultiNodeSingleWriter
        | ApiMode::MultiNodeMultiWriter => {
            return Err(Fault::invalid(
                "volume_capability.access_mode",
                "a volume is on one node's disk; ask for ReadWriteOnce or ReadWriteOncePod",
            ));
        }
    };
    let access = match &asked.access_type {
        None => return Err(Fault::missing("volume_capability.access_type")),
        Some(AccessType::Block(_)) => Access::Block,
        Some(AccessType::Mount(mount)) => Access::Mount {
            fs: match mount.fs_type.as_str() {
                "" => None,
                text => Some(Fs::parse("volume_capability.mount.fs_type", text)?),
            },
            flags: mount_flags(&mount.mount_flags)?,
        },
    };
    Ok(Capability { access, mode })
}

/// Reads all capabilities of a volume that is to be made: they don't contradict each other.
pub(super) fn capabilities(asked: &[VolumeCapability]) -> Result<Vec<Capability>, Fault> {
    const FIELD: &str = "volume_capabilities";
    if asked.is_empty() {
        return Err(Fault::missing(FIELD));
    }
    let read: Result<Vec<_>, _> = asked.iter().map(|asked| capability(Some(asked))).collect();
    let read = read?;
    let blocks = read
        .iter()
        .filter(|read| read.access == Access::Block)
        .count();
    if blocks != 0 && blocks != read.len() {
        return Err(Fault::invalid(
            FIELD,
            "are block and mount at once; ask for one of them",
        ));
    }
    Ok(read)
}

/// Words that go to mount(2) as they are: nothing that reaches beyond the volume.
fn mount_flags(flags: &[String]) -> Result<Vec<String>, Fault> {
    const FIELD: &str = "volume_capability.mount.mount_flags";
    let total: usize = flags.iter().map(String::len).sum();
    if total > 4096 {
        return Err(Fault::invalid(FIELD, "are longer than 4 KiB"));
    }
    let words = flags.iter().flat_map(|flag| flag.split(','));
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let is_word = |word: &String| {
        word.bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\'))
    };
    match words.iter().find(|word| !is_word(word)) {
        Some(word) => Err(Fault::invalid(
            FIELD,
            format!("{word:?} is no option of a mount"),
        )),
        None => Ok(words),
    }
}

/// How many bytes a volume gets, between what is required and the limit. `least`: of what it is made from.
pub(super) fn size(range: Option<&CapacityRange>, least: Option<u64>) -> Result<u64, Fault> {
    let (required, limit) = match range {
        None => (0, 0),
        Some(range) => {
            let bytes = |bytes: i64, field: &'static str| {
                u64::try_from(bytes).map_err(|_| Fault::invalid(field, "is negative"))
            };
            (
                bytes(range.required_bytes, "capacity_range.required_bytes")?,
                bytes(range.limit_bytes, "capacity_range.limit_bytes")?,
            )
        }
    };
    if limit != 0 && required > limit {
        return Err(Fault::invalid(
            "capacity_range",
            "requires more than its limit",
        ));
    }
    let wanted = match (required, least) {
        (0, Some(least)) => least,
        (0, None) => match limit {
            0 => USUAL_BYTES,
            limit => USUAL_BYTES.min(limit),
        },
        (required, _) => required,
    };
    if wanted > MOST_BYTES {
        return Err(Fault::OutOfRange(format!(
            "{wanted} bytes are more than {MOST_BYTES}"
        )));
    }
    // Whole blocks: a loop device hides the rest.
    let size = wanted.max(LEAST_BYTES).next_multiple_of(BLOCK);
    if limit != 0 && size > limit {
        return Err(Fault::OutOfRange(format!(
            "a volume has at least {size} bytes"
        )));
    }
    match least {
        Some(least) if size < least => Err(Fault::OutOfRange(format!(
            "{size} bytes don't hold its source, which has {least}"
        ))),
        _ => Ok(size),
    }
}

/// A name that the caller has chosen.
pub(super) fn name(field: &'static str, name: &str) -> Result<String, Fault> {
    match name.len() {
        0 => Err(Fault::missing(field)),
        1..=LONGEST if !name.contains(char::is_control) => Ok(name.to_owned()),
        1..=LONGEST => Err(Fault::invalid(field, "has control characters")),
        _ => Err(Fault::invalid(
            field,
            format!("is longer than {LONGEST} bytes"),
        )),
    }
}

/// A path of the host that the kubelet names.
pub(super) fn path(field: &'static str, path: &str) -> Result<PathBuf, Fault> {
    const LONGEST_PATH: usize = 4096;
    if path.is_empty() {
        return Err(Fault::missing(field));
    }
    let read = PathBuf::from(path);
    let steps_back = read
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    if path.len() > LONGEST_PATH || path.contains('\0') || steps_back {
        return Err(Fault::invalid(field, "is no path without steps back"));
    }
    Ok(read)
}

/// What a volume is on the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Backing {
    /// A file, behind a loop device. What records without a word are.
    #[default]
    Image,
    /// A subvolume with a quota group.
    Btrfs,
    /// A folder, with a project's quota.
    Directory,
}

impl Backing {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Btrfs => "btrfs",
            Self::Directory => "directory",
        }
    }
}

/// What a StorageClass says of its volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parameters {
    /// None: ext4.
    pub(super) fs: Option<Fs>,
    /// Blocks are taken from the pool when they are written, not when the volume is made.
    pub(super) thin: bool,
    /// None: what suits this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<Backing>,
    /// Where nothing can enforce a directory's size, it is made all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) allow_unenforced: bool,
    #[serde(default)]
    pub(super) overcommit: Ratio,
}

/// How many bytes are promised for one that is kept free, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ratio(u32);

impl Default for Ratio {
    fn default() -> Self {
        Self(100)
    }
}

impl Ratio {
    /// A number like 1.5, from 1 to 100.
    fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.is_empty() || part.len() > 2 {
            return None;
        }
        let part = part.parse::<u32>().ok()? * if part.len() == 1 { 10 } else { 1 };
        let ratio = whole
            .parse::<u32>()
            .ok()?
            .checked_mul(100)?
            .checked_add(part)?;
        (100..=10_000).contains(&ratio).then_some(Self(ratio))
    }

    /// How much may be promised of so many bytes.
    pub(super) fn promises(self, bytes: u64) -> u64 {
        let promised = u128::from(bytes) * u128::from(self.0) / 100;
        u64::try_from(promised).unwrap_or(u64::MAX)
    }

    /// What is kept free for so many bytes.
    pub(super) fn kept(self, bytes: u64) -> u64 {
        let kept = (u128::from(bytes) * 100).div_ceil(u128::from(self.0.max(1)));
        u64::try_from(kept).unwrap_or(u64::MAX)
    }
}

/// Keys that the sidecars add for themselves.
const OF_SIDECARS: &str = "csi.storage.k8s.io/";

/// The claim that a volume of a name is for; none: the provisioner doesn't say, or not in words that fit.
pub(super) fn claim(name: &str, parameters: &HashMap<String, String>) -> Option<ObjectName> {
    let of = |field: &str| parameters.get(&format!("{OF_SIDECARS}pvc/{field}"));
    object_name(of("namespace")?, of("name")?, name.strip_prefix("pvc-"))
}

/// The pod that gets a volume, likewise (`podInfoOnMount`).
pub(super) fn pod(context: &HashMap<String, String>) -> Option<ObjectName> {
    let of = |field: &str| context.get(&format!("{OF_SIDECARS}pod.{field}"));
    object_name(of("namespace")?, of("name")?, of("uid").map(String::as_str))
}

fn object_name(namespace: &str, name: &str, uid: Option<&str>) -> Option<ObjectName> {
    // As long as Kubernetes lets names be.
    let fits =
        |name: &str| matches!(name.len(), 1..=253) && name.bytes().all(|b| b.is_ascii_graphic());
    (fits(namespace) && fits(name)).then(|| ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.filter(|uid| fits(uid)).map(str::to_owned),
    })
}

/// Reads the parameters of a StorageClass.
pub(super) fn parameters(asked: &HashMap<String, String>) -> Result<Parameters, Fault> {
    const FIELD: &str = "parameters";
    let mut read = Parameters::default();
    for (key, value) in asked {
        match key.as_str() {
            "csi.storage.k8s.io/fstype" | "fsType" => read.fs = Some(Fs::parse(FIELD, value)?),
            "thin" => read.thin = is_true(key, value)?,
            "allowUnenforced" => read.allow_unenforced = is_true(key, value)?,
            "backend" => {
                read.backend = match value.as_str() {
                    "auto" => None,
                    "image" => Some(Backing::Image),
                    "btrfs" => Some(Backing::Btrfs),
                    "directory" => Some(Backing::Directory),
                    other => {
                        return Err(Fault::invalid(
                            FIELD,
                            format!(
                                "backend: {other:?} is not known; write auto, image, directory or btrfs"
                            ),
                        ));
                    }
                };
            }
            "overcommit" => {
                read.overcommit = Ratio::parse(value).ok_or_else(|| {
                    Fault::invalid(
                        FIELD,
                        format!("overcommit: {value:?} is no ratio; write a number from 1 to 100, like 1.5"),
                    )
                })?;
            }
            key if key.starts_with(OF_SIDECARS) => {}
            key => {
                return Err(Fault::invalid(
                    FIELD,
                    format!(
                        "{key:?} is not known; there are backend, fsType, thin, overcommit and allowUnenforced"
                    ),
                ));
            }
        }
    }
    Ok(read)
}

fn is_true(key: &str, value: &str) -> Result<bool, Fault> {
    value.parse().map_err(|_| {
        Fault::invalid(
            "parameters",
            format!("{key}: {value:?} is neither true nor false"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    fn asked(mode: ApiMode, access: Option<AccessType>) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: access,
        }
    }

    fn mount(fs: &str, flags: &[&str]) -> Option<AccessType> {
        Some(AccessType::Mount(MountVolume {
            fs_type: fs.into(),
            mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            volume_mount_group: String::new(),
        }))
    }

    fn field(fault: Fault) -> &'static str {
        match fault {
            Fault::Invalid { field, .. } => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_capability_is_read_or_its_field_is_named() {
        let writer = ApiMode::SingleNodeWriter;
        let read = capability(Some(&asked(
            writer,
            mount("xfs", &["noatime,discard", "ro"]),
        )))
        .unwrap();
        let flags = ["noatime", "discard", "ro"].map(str::to_owned).to_vec();
        assert_eq!(
            read,
            Capability {
                access: Access::Mount {
                    fs: Some(Fs::Xfs),
                    flags
                },
                mode: Mode::Writers
            }
        );
        for (asked, expected) in [
            (
                asked(ApiMode::Unknown, mount("", &[])),
                "volume_capability.access_mode",
            ),
            (
                asked(ApiMode::MultiNodeMultiWriter, mount("", &[])),
                "volume_capability.access_mode",
            ),
            (asked(writer, None), "volume_capability.access_type"),
            (
                asked(writer, mount("ntfs", &[])),
                "volume_capability.mount.fs_type",
            ),
            (
                asked(writer, mount("", &["bind /etc"])),
                "volume_capability.mount.mount_flags",
            ),
        ] {
            assert_eq!(field(capability(Some(&asked)).unwrap_err()), expected);
        }
        assert_eq!(field(capability(None).unwrap_err()), "volume_capability");
    }

    #[test]
    fn a_volume_is_block_or_mount() {
        let block = asked(
            ApiMode::SingleNodeWriter,
            Some(AccessType::Block(BlockVolume {})),
        );
        let mount = asked(ApiMode::SingleNodeWriter, mount("", &[]));
        assert_eq!(
            capabilities(&[block.clone(), block.clone()]).unwrap().len(),
            2
        );
        assert_eq!(
            field(capabilities(&[block, mount]).unwrap_err()),
            "volume_capabilities"
        );
        assert_eq!(field(capabilities(&[]).unwrap_err()), "volume_capabilities");
    }

    #[test]
    fn a_size_lies_between_what_is_required_and_the_limit() {
        const GIB: i64 = 1 << 30;
        let range = |required_bytes, limit_bytes| CapacityRange {
            required_bytes,
            limit_bytes,
        };
        let gib = 1u64 << 30;
        assert_eq!(size(None, None), Ok(gib));
        assert_eq!(size(Some(&range(10 * GIB, 10 * GIB)), None), Ok(10 * gib));
        assert_eq!(size(Some(&range(0, GIB / 2)), None), Ok(gib / 2));
        assert_eq!(size(Some(&range(0, 0)), Some(5 * gib)), Ok(5 * gib));
        assert_eq!(size(Some(&range(1, 0)), None), Ok(1 << 20));
        assert_eq!(size(Some(&range(GIB + 1, 0)), None), Ok(gib + 4096));
        for (range, least, code) in [
            (range(-1, 0), None, tonic::Code::InvalidArgument),
            (range(2, 1), None, tonic::Code::InvalidArgument),
            (range(1, 1000), None, tonic::Code::OutOfRange),
            (range(GIB, 0), Some(2 * gib), tonic::Code::OutOfRange),
            (range(i64::MAX, 0), None, tonic::Code::OutOfRange),
        ] {
            assert_eq!(
                size(Some(&range), least).unwrap_err().code(),
                code,
                "{range:?}"
            );
        }
    }

    #[test]
    fn a_class_says_what_it_wants_and_nothing_unknown() {
        let class = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            parameters(&pairs.collect())
        };
        let read = class(&[
            ("csi.storage.k8s.io/fstype", "xfs"),
            ("csi.storage.k8s.io/pvc/name", "pvc-test"),
            ("thin", "true"),
            ("backend", "directory"),
            ("allowUnenforced", "true"),
            ("overcommit", "1.5"),
        ]);
        let expected = Parameters {
            fs: Some(Fs::Xfs),
            thin: true,
            backend: Some(Backing::Directory),
            allow_unenforced: true,
            overcommit: Ratio(150),
        };
        assert_eq!(read, Ok(expected));
        assert_eq!(class(&[("backend", "auto")]), Ok(Parameters::default()));
        for pairs in [
            [("thin", "yes")],
            [("thim", "true")],
            [("fsType", "zfs")],
            [("fsType", "folder")],
            [("backend", "lvm")],
            [("overcommit", "0.5")],
            [("overcommit", "-2")],
            [("overcommit", "2.")],
            [("overcommit", "1e3")],
        ] {
            assert_eq!(field(class(&pairs).unwrap_err()), "parameters", "{pairs:?}");
        }
    }

    #[test]
    fn claims_and_pods_are_known_by_whole_names_alone() {
        let map = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            let pairs = pairs
                .iter()
                .map(|(key, value)| (format!("{OF_SIDECARS}{key}"), (*value).to_owned()));
            pairs.collect()
        };
        let parameters = map(&[("pvc/name", "pvc-test"), ("pvc/namespace", "default")]);
        let known = claim("pvc-1-2-3", &parameters).unwrap();
        assert_eq!(known.to_string(), "default/pvc-test");
        assert_eq!(known.uid.as_deref(), Some("1-2-3"));
        let context = map(&[
            ("pod.name", "web-0"),
            ("pod.namespace", "shop"),
            ("pod.uid", "4-5"),
        ]);
        let known = pod(&context).unwrap();
        assert_eq!(known.to_string(), "shop/web-0");
        assert_eq!(known.uid.as_deref(), Some("4-5"));
        let long = "n".repeat(254);
        for name in ["", "a\nb", &long] {
            let parameters = map(&[("pvc/name", name), ("pvc/namespace", "default")]);
            assert_eq!(claim("v", &parameters), None, "{name:?}");
        }
        assert_eq!(claim("v", &map(&[("pvc/name", "pvc-test")])), None);
    }

    #[test]
    fn of_a_ratio_its_part_is_kept() {
        assert_eq!(Ratio::default().kept(1000), 1000);
        assert_eq!(Ratio::parse("2.5").unwrap().kept(1000), 400);
        assert_eq!(Ratio::parse("3").unwrap().kept(1000), 334);
        assert_eq!(Ratio::parse("100"), Some(Ratio(10_000)));
        assert_eq!(Ratio::parse("100.01"), None);
    }

    #[test]
    fn a_class_of_an_earlier_agent_is_read() {
        let old = serde_json::from_str::<Parameters>(r#"{"fs":"ext4","thin":true}"#).unwrap();
        let expected = Parameters {
            fs: Some(Fs::Ext4),
            thin: true,
            ..Parameters::default()
        };
        assert_eq!(old, expected);
    }

    #[test]
    fn names_and_paths_from_outside_are_bounded() {
        let long = "n".repeat(128);
        assert_eq!(name("name", &long), Ok(long));
        for text in [String::new(), "n".repeat(129), "a\nb".into()] {
            assert_eq!(field(name("name", &text).unwrap_err()), "name");
        }
        assert!(path("target_path", "/var/lib/kubelet/pods/x/mount").is_ok());
        for text in ["", "/a/../b", "/a\0b"] {
            assert_eq!(field(path("target_path", text).unwrap_err()), "target_path");
        }
    }
}
