//! The head of an ext4 (struct ext4_super_block, documented in the kernel's filesystems/ext4/super.rst).

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

const AT: u64 = 1024;
const MAGIC: u16 = 0xef53;
/// `INCOMPAT_64BIT`.
const LARGE: u32 = 0x80;

/// What of it is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) blocks: u64,
    /// In bytes.
    pub(super) block_size: u64,
}

impl Superblock {
    /// Reads that of a device.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn read(device: &Path) -> io::Result<Self> {
        let mut bytes = [0; 1024];
        File::open(device)?.read_exact_at(&mut bytes, AT)?;
        Self::parse(&bytes).ok_or_else(|| io::Error::other("there is no ext4 on the volume"))
    }

    /// PURE.
    fn parse(bytes: &[u8; 1024]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let magic = u16::from_le_bytes(bytes.get(0x38..0x3a)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let high = match word(0x60)? & LARGE {
            0 => 0,
            _ => word(0x150)?,
        };
        Some(Self {
            blocks: u64::from(high) << 32 | u64::from(word(4)?),
            block_size: 1024_u64.checked_shl(word(24)?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_from_both_halves_where_there_are_two() {
        let mut bytes = [0; 1024];
        assert_eq!(Superblock::parse(&bytes), None);
        bytes[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&1000_u32.to_le_bytes());
        bytes[24..28].copy_from_slice(&2_u32.to_le_bytes());
        bytes[0x150..0x154].copy_from_slice(&1_u32.to_le_bytes());
        let of = |blocks| {
            Some(Superblock {
                blocks,
                block_size: 4096,
            })
        };
        assert_eq!(Superblock::parse(&bytes), of(1000));
        bytes[0x60..0x64].copy_from_slice(&LARGE.to_le_bytes());
        assert_eq!(Superblock::parse(&bytes), of((1 << 32) + 1000));
    }
}
