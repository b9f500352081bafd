//! PURE: which back end a volume gets, from what its class says and what was found on this node by trying.

use crate::csi::{
    fault::Fault,
    request::{Access, Backing, Capability, Parameters},
};

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(in crate::csi) struct Found<'a> {
    /// Whether subvolumes are bounded here; if not, why and what to do.
    pub(in crate::csi) btrfs: Result<(), &'a str>,
    /// The same of folders.
    pub(in crate::csi) quota: Result<(), &'a str>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::csi) struct Asked<'a> {
    pub(in crate::csi) parameters: &'a Parameters,
    pub(in crate::csi) capabilities: &'a [Capability],
}

impl Asked<'_> {
    fn is_block(&self) -> bool {
        let mut accesses = self.capabilities.iter().map(|of| &of.access);
        accesses.any(|access| *access == Access::Block)
    }

    fn names_file_system(&self) -> bool {
        let mut accesses = self.capabilities.iter().map(|of| &of.access);
        self.parameters.fs.is_some()
            || accesses.any(|access| matches!(access, Access::Mount { fs: Some(_), .. }))
    }
}

/// Chooses.
///
/// # Errors
/// What the class wants can't be had on this node, with the remedy, or contradicts itself.
pub(in crate::csi) fn choose(asked: &Asked<'_>, found: Found<'_>) -> Result<Backing, Fault> {
    let Some(wanted) = asked.parameters.backend else {
        // What no pod can get around: in a subvolume it can make others, and whoever owns a file can give it to
        // another project (FS_IOC_FSSETXATTR).
        return Ok(Backing::Image);
    };
    fits(wanted, asked)?;
    let cant = |why: &str| {
        // The scheduler then tries another node.
        Fault::Exhausted(format!(
            "parameters: backend: {} can't be had on this node: {why}",
            wanted.as_str()
        ))
    };
    match (wanted, found) {
        (
            Backing::Btrfs,
            Found {
                btrfs: Err(why), ..
            },
        ) => Err(cant(why)),
        (
            Backing::Directory,
            Found {
                quota: Err(why), ..
            },
        ) if !asked.parameters.allow_unenforced => Err(cant(&format!(
            "nothing would keep a volume to its size, since {why}; or accept that with allowUnenforced: \"true\""
        ))),
        _ => Ok(wanted),
    }
}

/// Whether a volume of a back end can be used in these ways.
///
/// # Errors
/// It can't, with the remedy.
pub(in crate::csi) fn fits(backing: Backing, asked: &Asked<'_>) -> Result<(), Fault> {
    let is = backing.as_str();
    match backing {
        Backing::Image => Ok(()),
        _ if asked.is_block() => Err(Fault::invalid(
            "volume_capabilities",
            format!("are block, and a {is} is mounted; use backend: image"),
        )),
        _ if asked.names_file_system() => Err(Fault::invalid(
            "parameters",
            format!(
                "name a file system, and a {is} has none of its own; leave fsType out, or use backend: image"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::request::{Fs, Mode};

    const NEITHER: Found<'static> = Found {
        btrfs: Err("it is not btrfs"),
        quota: Err("there are no quotas"),
    };
    const BOTH: Found<'static> = Found {
        btrfs: Ok(()),
        quota: Ok(()),
    };

    fn capability(access: Access) -> [Capability; 1] {
        [Capability {
            access,
            mode: Mode::Writers,
        }]
    }

    fn mount(fs: Option<Fs>) -> Access {
        Access::Mount {
            fs,
            flags: Vec::new(),
        }
    }

    fn chosen(
        backend: Option<Backing>,
        access: Access,
        found: Found<'_>,
    ) -> Result<Backing, Fault> {
        let parameters = Parameters {
            backend,
            ..Parameters::default()
        };
        let asked = Asked {
            parameters: &parameters,
            capabilities: &capability(access),
        };
        choose(&asked, found)
    }

    #[test]
    fn nobody_says_and_what_no_pod_can_get_around_is_taken() {
        for access in [mount(None), mount(Some(Fs::Xfs)), Access::Block] {
            for found in [NEITHER, BOTH] {
                let text = format!("{access:?} {found:?}");
                let chosen = chosen(None, access.clone(), found);
                assert_eq!(chosen, Ok(Backing::Image), "{text}");
            }
        }
    }

    #[test]
    fn what_a_class_wants_is_had_or_refused_with_a_remedy() {
        for backend in [Backing::Btrfs, Backing::Directory] {
            assert_eq!(chosen(Some(backend), mount(None), BOTH), Ok(backend));
            let fault = chosen(Some(backend), mount(None), NEITHER).unwrap_err();
            assert_eq!(fault.code(), tonic::Code::ResourceExhausted);
            for access in [mount(Some(Fs::Ext4)), Access::Block] {
                let fault = chosen(Some(backend), access, BOTH).unwrap_err();
                assert_eq!(fault.code(), tonic::Code::InvalidArgument);
            }
        }
        let parameters = Parameters {
            backend: Some(Backing::Directory),
            allow_unenforced: true,
            ..Parameters::default()
        };
        let asked = Asked {
            parameters: &parameters,
            capabilities: &capability(mount(None)),
        };
        assert_eq!(choose(&asked, NEITHER), Ok(Backing::Directory));
    }
}
