//! Copies of volumes as they are at one moment, whoever writes meanwhile. As little as can be is done at that moment, since
//! pods wait: most of each copy is begun before it, and kept for good after it.

use super::{
    ahead::Ahead,
    backend::Item,
    fault::Fault,
    freeze::Held,
    id::VolumeId,
    request::Backing,
    volumes::{Volumes, failed, now},
};
use std::{fs::File, io, os::unix::fs::MetadataExt as _};

const CUTTING: &str = "cutting the volume";

impl Volumes {
    /// Makes copies, each with the volume that it is of, as all of them are at one moment; when that was, in nanoseconds.
    /// Of what isn't made whole, something may be left: remove it.
    pub(super) fn cut(&self, copies: &[(&VolumeId, Item<'_>)]) -> Result<i64, Fault> {
        let mut held: Vec<Option<Held>> = Vec::new();
        for (of, _) in copies {
            held.push(self.guard(of)?);
        }
        let holding = failed("holding the volume still");
        // Most of what is pending is written before anybody has to wait, and while the guards start.
        for held in held.iter().flatten() {
            held.write_out().map_err(&holding)?;
        }
        let mut begun = Vec::new();
        for ((_, item), held) in copies.iter().zip(&held) {
            let backend = self.backend(item.backing())?;
            let draft = backend.begin(*item, held.is_some());
            let draft = draft.map_err(failed("copying the volume"))?;
            // What came while that was copied.
            if let (Some(held), Some(true)) = (held, draft.0.as_ref().map(Ahead::is_most)) {
                held.write_out().map_err(&holding)?;
            }
            begun.push((backend, item, draft));
        }
        // What nobody writes to needs no moment, and may take long: nobody waits for it.
        for ((backend, item, draft), _) in begun
            .iter_mut()
            .zip(&held)
            .filter(|(_, held)| held.is_none())
        {
            backend.cut(**item, draft).map_err(failed(CUTTING))?;
        }
        // They wait for each other's disks, and not one after the other.
        for held in held.iter_mut().flatten() {
            held.ask().map_err(&holding)?;
        }
        for (held, (.., draft)) in held.iter_mut().zip(&mut begun) {
            let Some(held) = held else { continue };
            let is_ours = held.wait(&self.counts).map_err(&holding)?;
            if let (false, Some(ahead)) = (is_ours, &mut draft.0) {
                ahead.at_once();
            }
        }
        let at = i64::try_from(now().as_nanos()).unwrap_or(i64::MAX);
        let mut still = begun
            .iter_mut()
            .zip(&held)
            .filter(|(_, held)| held.is_some());
        let done = still.try_for_each(|((backend, item, draft), _)| backend.cut(**item, draft));
        let mut in_time = true;
        let mut failure = None;
        for held in held.into_iter().flatten() {
            match held.release() {
                Ok(was) => in_time &= was,
                Err(error) => failure = Some(failed("letting the volume go on")(error)),
            }
        }
        done.map_err(failed(CUTTING))?;
        match failure {
            Some(fault) => return Err(fault),
            None if !in_time => return Err(too_late()),
            None => {}
        }
        for (backend, item, draft) in begun {
            let kept = backend.keep(*item, draft);
            kept.map_err(failed("keeping what was cut"))?;
        }
        Ok(at)
    }

    /// A guard of the volume's own file system, if that is mounted. What isn't its own is never held: it would be the
    /// pool's, with all other volumes.
    fn guard(&self, id: &VolumeId) -> Result<Option<Held>, Fault> {
        let volume = self.book.read().volumes.get(id).cloned();
        let Some(volume) = volume.filter(|of| of.fs.is_some() && of.backing == Backing::Image)
        else {
            return Ok(None);
        };
        let mounting = failed("the volume's mount");
        let Some(device) = self.device(&volume)? else {
            return Ok(None);
        };
        let device = device.number().map_err(&mounting)?;
        for at in volume.stages.keys().chain(volume.targets.keys()) {
            let within = match File::open(at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                within => within.map_err(&mounting)?,
            };
            // By what is open: what is mounted there may be another one by now.
            if within.metadata().map_err(&mounting)?.dev() == device {
                let guarded = Held::guarded(within).map_err(failed("holding the volume still"))?;
                return Ok(Some(guarded));
            }
        }
        Ok(None)
    }
}

fn too_late() -> Fault {
    Fault::Busy("the cut took too long, so that the volume had to go on; ask again".into())
}
