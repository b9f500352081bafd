//! Whether what was found works: its files are there and the same, they can be opened, a program says so. An open may
//! hang in a driver for ever, so each look has a thread of its own, and a device has never more than one.

use super::{Host, program};
use crate::device::{
    damping::Seen,
    found::DeviceFile,
    plan::{HealthRule, Program},
};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// So long opening all files of a device may take.
const OPENING: Duration = Duration::from_secs(5);
/// So much longer than its deadline a program may take to be ended.
const ENDING: Duration = Duration::from_secs(2);

/// Looks at one device.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// A look is at work, perhaps for ever.
    at_work: Arc<AtomicBool>,
}

impl Probe {
    /// Looks once. `files` are those that it was found with, `values` its fields.
    pub async fn look(
        &self,
        host: &Host,
        rule: &HealthRule,
        files: &[DeviceFile],
        values: &BTreeMap<String, String>,
    ) -> Seen {
        let limit = OPENING + rule.command.as_ref().map_or(Duration::ZERO, limit);
        let (host, files, values) = (host.clone(), files.to_vec(), values.clone());
        let (is_opened, command) = (rule.open, rule.command.clone());
        let work = move || {
            if let Err(why) = present(&host, &files) {
                return Seen::Gone(why);
            }
            let mut outcome = Ok(());
            if is_opened {
                outcome = files.iter().try_for_each(|file| opened(&host, file));
            }
            if let Some(command) = command {
                outcome = outcome.and_then(|()| program::run(&command, &values));
            }
            outcome.map_or_else(Seen::Ill, |()| Seen::Well)
        };
        self.apart(limit, work).await
    }

    /// Does something that may hang on a thread of its own.
    async fn apart(&self, limit: Duration, work: impl FnOnce() -> Seen + Send + 'static) -> Seen {
        const HANGS: &str = "a look at it hangs in its driver";
        if self.at_work.swap(true, Ordering::AcqRel) {
            return Seen::Ill(HANGS.to_owned());
        }
        // Let go when the thread ends, however it does.
        let work_ends = WorkEnds(self.at_work.clone());
        let (done, waiting) = oneshot::channel();
        let thread = thread::Builder::new().name("device-health".into());
        let started = thread.spawn(move || {
            let seen = work();
            // The next look may begin as soon as this one is told.
            drop(work_ends);
            // Who waited may have given up.
            drop(done.send(seen));
        });
        if let Err(error) = started {
            return Seen::Ill(format!("no thread can be started to look at it: {error}"));
        }
        match timeout(limit, waiting).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(_)) => Seen::Ill("the look at it broke off".to_owned()),
            Err(_) => Seen::Ill(HANGS.to_owned()),
        }
    }
}

struct WorkEnds(Arc<AtomicBool>);

impl Drop for WorkEnds {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn limit(program: &Program) -> Duration {
    program.deadline + ENDING
}

/// Whether all files of a device are there and mean the same devices still.
///
/// # Errors
/// The first that isn't or doesn't.
pub fn present(host: &Host, files: &[DeviceFile]) -> Result<(), String> {
    for file in files {
        let path = file.path.display();
        let numbers = |file: &DeviceFile| (file.kind, file.major, file.minor);
        match host.file(&file.path) {
            Ok(Some(now)) if numbers(&now) == numbers(file) => {}
            Ok(Some(_)) => return Err(format!("{path} is another device now")),
            Ok(None) => return Err(format!("{path} is gone")),
            Err(error) => return Err(format!("{path} can't be looked at: {error}")),
        }
    }
    Ok(())
}

/// Opens a file and closes it. That somebody has it for himself is a sign of life.
fn opened(host: &Host, file: &DeviceFile) -> Result<(), String> {
    let path = file.path.display();
    let Some(place) = host.place(&file.path) else {
        return Err(format!("{path} is not in /dev"));
    };
    match open_once(&place) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(format!(
            "{path} can't be opened: {}",
            std::io::Error::from(error)
        )),
    }
}

fn open_once(place: &Path) -> Result<(), Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        match open(place, flags, Mode::empty()) {
            Ok(_closed) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{host::fake::Tree, template::Template};
    use std::{fs, path::PathBuf};

    fn rule(open: bool, script: Option<&str>) -> HealthRule {
        let command = script.map(|script| Program {
            path: PathBuf::from("/bin/sh"),
            arguments: ["-c", script]
                .map(|text| Template::parse(text).unwrap())
                .into(),
            deadline: Duration::from_millis(300),
        });
        HealthRule {
            open,
            command,
            every: Duration::from_secs(1),
            failures: 1,
            successes: 1,
            forget: Duration::from_secs(1),
        }
    }

    async fn look(tree: &Tree, rule: &HealthRule, files: &[DeviceFile]) -> Seen {
        let values = BTreeMap::new();
        Probe::default()
            .look(&tree.host(), rule, files, &values)
            .await
    }

    #[tokio::test]
    async fn what_is_there_is_well_and_what_is_gone_or_another_is_gone() {
        let tree = Tree::new();
        tree.virtual_device("mem", "null", 1, 3);
        let file = tree.host().file(Path::new("/dev/null")).unwrap().unwrap();
        let files = [file.clone()];
        assert_eq!(look(&tree, &rule(true, None), &files).await, Seen::Well);
        let other = [DeviceFile { minor: 5, ..file }];
        let seen = look(&tree, &rule(false, None), &other).await;
        assert_eq!(seen, Seen::Gone("/dev/null is another device now".into()));
        tree.remove_file("null");
        let seen = look(&tree, &rule(true, None), &files).await;
        assert_eq!(seen, Seen::Gone("/dev/null is gone".into()));
    }

    #[tokio::test]
    async fn what_cant_be_opened_is_ill() {
        let tree = Tree::new();
        // Nobody drives devices with this number.
        tree.virtual_device("misc", "dead", 4000, 7);
        let file = tree.host().file(Path::new("/dev/dead")).unwrap().unwrap();
        let place = tree.host().dev.join("dead");
        // Who can't make device files has a plain one, which opens.
        let expected = fs::File::open(place).map_or_else(|_| false, |_| true);
        let seen = look(&tree, &rule(true, None), &[file]).await;
        match expected {
            true => assert_eq!(seen, Seen::Well),
            false => assert!(matches!(&seen, Seen::Ill(why) if why.contains("can't be opened"))),
        }
    }

    #[tokio::test]
    async fn a_program_says_how_it_is() {
        let tree = Tree::new();
        assert_eq!(
            look(&tree, &rule(false, Some("true")), &[]).await,
            Seen::Well
        );
        let seen = look(&tree, &rule(false, Some("echo too hot; false")), &[]).await;
        assert!(
            matches!(&seen, Seen::Ill(why) if why.ends_with("too hot")),
            "{seen:?}"
        );
        let seen = look(&tree, &rule(false, Some("sleep 1000")), &[]).await;
        assert!(
            matches!(&seen, Seen::Ill(why) if why.contains("was ended")),
            "{seen:?}"
        );
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_told_and_holds_no_second_thread() {
        let probe = Probe::default();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hang = move || {
            let _released = held.recv();
            Seen::Well
        };
        let seen = probe.apart(Duration::from_millis(50), hang).await;
        assert!(
            matches!(&seen, Seen::Ill(why) if why.contains("hangs")),
            "{seen:?}"
        );
        let second = || panic!("a second thread");
        let seen = probe.apart(Duration::from_secs(60), second).await;
        assert!(matches!(seen, Seen::Ill(_)));
        drop(release);
        while probe.at_work.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        let seen = probe.apart(Duration::from_secs(60), || Seen::Well).await;
        assert_eq!(seen, Seen::Well);
    }
}
