//! Takes over what an agent with another layout of the maps pinned. Its links move into our folder
//! and go on with the programs and the maps they have, until each is given its new program in
//! place: there is no instant without a program or with two. Its maps then live as long as a
//! program uses them.

use super::{
    DatapathError, attach, cgroup,
    pins::{self, Pins},
};
use std::path::Path;
use tracing::{info, warn};

/// Moves every link of other layouts and removes their folders. To be called when our maps and
/// programs are loaded: until then nothing of theirs is touched, and an agent of theirs can go on.
pub(super) fn take_over(pins: &Pins) -> Result<(), DatapathError> {
    for former in pins.others()? {
        let mut moved = cgroup::take_over(pins, &former)?;
        for ifname in former.interfaces()? {
            let folder = former.interface(&ifname);
            for program in former.programs(&ifname)? {
                take_link(&folder.join(&program), &pins.link(&ifname, &program)?)?;
                moved += 1;
            }
            pins::remove(&folder)?;
        }
        info!(
            folder = %former.top().display(),
            "took {moved} links over from an agent with another layout of the maps"
        );
        // What else somebody put there is theirs; our start doesn't depend on it.
        if let Err(fault) = former.remove_maps() {
            warn!("{fault}");
        }
    }
    Ok(())
}

/// Moves a pin. Where both layouts have a link on the interface, an agent of theirs ran after one of
/// ours without knowing of it, and there are two programs: ours stays.
fn take_link(from: &Path, to: &Path) -> Result<(), DatapathError> {
    if attach::is_live(to)? {
        return attach::remove_link(from);
    }
    std::fs::rename(from, to).map_err(|source| DatapathError::Pin {
        action: "move",
        path: from.to_owned(),
        source,
    })
}
