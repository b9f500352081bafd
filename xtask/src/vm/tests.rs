//! Guests do what they are told, and nothing of them stays.

use super::*;
use crate::workspace;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
};

fn command(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Runs a command in a guest; its exit code and what it printed.
fn run_in(guest: &Guest) -> (i32, String) {
    let session = Session::start().unwrap();
    let mut running = guest.start(&session, Stdio::piped()).unwrap();
    let mut pipe = running.process().child().stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        pipe.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    });
    let code = running.wait().unwrap();
    (code, reader.join().unwrap())
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_guest_has_our_files_and_its_own_kernel_and_changes_nothing() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 30).unwrap();
    let mark = workspace::root().join("target/made-in-a-guest");
    let script = "uname -r; head -1 Cargo.toml; touch target/made-in-a-guest && echo made; \
                  mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && stat -f -c %T /mnt; \
                  echo \"it's $SAID\"; exit 7";
    let guest = Guest {
        disks: vec![disk.path().to_owned()],
        env: vec![("SAID".to_owned(), "so".into())],
        ..Guest::new(command(&[
            "sh",
            "-c",
            &format!("cd {} && {script}", workspace::root().display()),
        ]))
    };
    let (code, said) = run_in(&guest);
    let version = setup::guest_kernel(setup::DEFAULT_KERNEL).unwrap().version;
    let expected = format!("{version}\n[workspace]\nmade\next2/ext3\nit's so\n");
    assert_eq!((code, said), (7, expected));
    assert!(!mark.exists(), "the guest has changed this machine's files");
    // The disk did change: an ext4 is on it.
    let mut magic = [0; 2];
    let mut file = fs::File::open(disk.path()).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(1024 + 56)).unwrap();
    file.read_exact(&mut magic).unwrap();
    assert_eq!(u16::from_le_bytes(magic), 0xef53);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_guest_that_does_not_end_is_ended() {
    let session = Session::start().unwrap();
    let guest = Guest {
        limit: Duration::from_millis(100),
        ..Guest::new(command(&["sleep", "1000"]))
    };
    let running = guest.start(&session, Stdio::null()).unwrap();
    let error = running.wait().unwrap_err().to_string();
    assert!(error.contains("takes longer than 100ms"), "{error}");
    let left: Vec<_> = fs::read_dir(session.dir().join("children"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What the command was told is on the disk is there when the power is gone; the next guest finds it.
#[test]
#[ignore = "needs root and QEMU"]
fn what_was_synced_outlives_a_power_cut() {
    const ENOUGH: u32 = 30;
    let disk = tempfile::NamedTempFile::new_in(workspace::root().join("target")).unwrap();
    disk.as_file().set_len(1 << 30).unwrap();
    let on_disk = |script: &str| Guest {
        disks: vec![disk.path().to_owned()],
        ..Guest::new(command(&["sh", "-c", script]))
    };
    let writer = on_disk(
        "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && n=0 && while :; do n=$((n + 1)); \
         echo $n > /mnt/new && sync /mnt/new && mv /mnt/new /mnt/number && sync /mnt && echo $n; done",
    );
    let session = Session::start().unwrap();
    let mut running = writer.start(&session, Stdio::piped()).unwrap();
    let pipe = running.process().child().stdout.take().unwrap();
    let mut told = 0;
    for line in BufReader::new(pipe).lines() {
        told = line.unwrap().parse::<u32>().unwrap();
        if told == ENOUGH {
            break;
        }
    }
    assert_eq!(told, ENOUGH, "{}", running.console());
    running.cut().unwrap();
    drop(session);
    let (code, said) = run_in(&on_disk("mount /dev/vda /mnt && cat /mnt/number"));
    let kept = said.trim().parse::<u32>().unwrap();
    assert!(code == 0 && kept >= told, "{kept} of {told}");
}

/// The agent's own tests, as cargo has built them.
fn agents_tests() -> PathBuf {
    let built = workspace::cargo()
        .args(["test", "--locked", "--lib", "--no-run"])
        .args(["--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success());
    let lines = built.stdout.split(|byte| *byte == b'\n');
    let mut programs = lines.filter_map(|line| {
        let said: serde_json::Value = serde_json::from_slice(line).ok()?;
        let is_agent = said["target"]["name"] == "cni_agent" && said["profile"]["test"] == true;
        let program = said["executable"].as_str().filter(|_| is_agent)?;
        Some(PathBuf::from(program))
    });
    programs.next().unwrap()
}

/// Quotas of projects, and control groups of version 2 that bound what a pod writes.
#[test]
#[ignore = "needs root and QEMU"]
fn what_volumes_have_from_another_kernel_holds_in_a_guest() {
    let program = agents_tests();
    for mkfs in [
        "mkfs.ext4 -q -O quota,project -E quotatype=prjquota",
        "mkfs.xfs -q",
    ] {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(8 << 30).unwrap();
        let script = format!(
            "set -e; {mkfs} /dev/vda; mkdir -p /pool /groups; mount -o prjquota /dev/vda /pool; \
             mount -t cgroup2 none /groups; exec \"$@\""
        );
        let mut words = command(&["sh", "-c", &script, "sh"]);
        words.push(program.clone().into());
        words.extend(command(&["--ignored", "--test-threads=1", "elsewhere::"]));
        let places = [
            ("TMPDIR", "/pool"),
            ("FAIRLEAD_TEST_PRJQUOTA", "/pool"),
            ("FAIRLEAD_TEST_IO_CGROUP", "/groups"),
        ];
        let guest = Guest {
            disks: vec![disk.path().to_owned()],
            env: places
                .map(|(name, place)| (name.to_owned(), place.into()))
                .into(),
            ..Guest::new(words)
        };
        let (code, said) = run_in(&guest);
        assert!(
            code == 0 && said.contains("test result: ok. 2 passed"),
            "{mkfs}: {code}: {said}"
        );
    }
}
