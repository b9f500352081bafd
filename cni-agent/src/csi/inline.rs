//! Volumes that live with their pods (CSI ephemeral inline volumes): made when the kubelet publishes them, removed when it
//! takes them back.

use super::{
    fault::Fault,
    id::VolumeId,
    records::{Target, Volume},
    request::{self, Access, Capability, Fs},
    volumes::{Volumes, failed, now},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// What a pod's specification says of its volume.
#[derive(Clone, Debug)]
pub(super) struct Inline {
    handle: String,
    bytes: u64,
    /// None: the class of volumes that suits this node.
    fs: Option<Fs>,
}

const SIZE: &str = "size";

impl Inline {
    /// Reads the attributes of the volume: `size`, as Kubernetes writes quantities, and those that the kubelet adds.
    pub(super) fn read(
        handle: String,
        attributes: &HashMap<String, String>,
        capability: &Capability,
    ) -> Result<Self, Fault> {
        const FIELD: &str = "volume_context";
        let Access::Mount { fs, .. } = &capability.access else {
            return Err(Fault::invalid(
                "volume_capability",
                "is block; inline volumes are mounted",
            ));
        };
        let unknown = attributes
            .keys()
            .find(|key| *key != SIZE && !key.starts_with("csi.storage.k8s.io/"));
        if let Some(key) = unknown {
            return Err(Fault::invalid(
                FIELD,
                format!("{key:?} is not known; there is size"),
            ));
        }
        let bytes = match attributes.get(SIZE) {
            None => request::size(None, None)?,
            Some(text) => {
                let bytes = quantity(text).ok_or_else(|| {
                    Fault::invalid(
                        FIELD,
                        format!("size: {text:?} is no size; write one like 500Mi or 2Gi"),
                    )
                })?;
                let range = node_api::csi::CapacityRange {
                    required_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
                    limit_bytes: 0,
                };
                request::size(Some(&range), None)?
            }
        };
        Ok(Self {
            handle,
            bytes,
            fs: *fs,
        })
    }
}

/// PURE: a number with the suffixes of Kubernetes' quantities that are whole bytes.
pub(super) fn quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("", 1),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(unit)
}

impl Volumes {
    /// Gives a pod a volume of its own.
    pub(super) fn publish_inline(
        &self,
        inline: &Inline,
        at: &Path,
        target: Target,
    ) -> Result<(), Fault> {
        let key = format!("the inline volume {:?}", inline.handle);
        {
            let _working = self.busy.begin(&[&key])?;
            let there = self.book.read().inline(&inline.handle).cloned();
            if there.is_none() {
                let id = VolumeId::random().map_err(failed("a name for the volume"))?;
                self.make(Volume {
                    fs: Some(inline.fs.unwrap_or(Fs::Ext4)),
                    inline: true,
                    made_at: now().as_secs(),
                    ..Volume::new(id, &inline.handle, inline.bytes)
                })?;
            }
        }
        // Where it is mounted once: in the pool's own folder, since the kubelet stages no such volume.
        let stage = self.inline_stage(&inline.handle)?;
        self.stage(&inline.handle, &stage, &target.capability)?;
        self.publish(&inline.handle, &stage, at, target)
    }

    pub(super) fn inline_stage(&self, handle: &str) -> Result<PathBuf, Fault> {
        let contents = self.book.read();
        let volume = contents.inline(handle);
        let volume =
            volume.ok_or_else(|| Fault::NotFound("there is no such volume on this node".into()))?;
        Ok(self.pool.mounts().join(volume.id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("1073741824", Some(1 << 30)),
            ("1Gi", Some(1 << 30)),
            ("500Mi", Some(500 << 20)),
            ("2G", Some(2_000_000_000)),
            ("1.5Gi", None),
            ("-1", None),
            ("Gi", None),
            ("", None),
            ("99999999999Pi", None),
        ] {
            assert_eq!(quantity(text), bytes, "{text:?}");
        }
    }
}
