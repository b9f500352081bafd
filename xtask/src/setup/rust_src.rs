//! The source of Rust's core library, of the nightly's own version: from rustup where it can
//! download, otherwise from Debian's package of the same minor version, only unpacked, into the
//! cache.

use super::{Staging, rust};
use crate::{
    ebpf_object::nightly_name,
    workspace::{self, in_path},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Debian's suites, the likeliest first. All move, so each one's version is looked at.
const SUITES: [&str; 6] = [
    "forky",
    "sid",
    "trixie",
    "trixie-backports",
    "experimental",
    "bookworm",
];

/// Used where apt itself knows no Debian mirror.
const MIRROR: &str = "http://deb.debian.org/debian";

/// What has to be in a library folder.
const PROOF: &str = "core/src/lib.rs";

pub(super) fn ready(cache: &Path) -> Result<Option<String>> {
    let Ok(sysroot) = rust::nightly_sysroot() else {
        return Ok(None);
    };
    if sysroot
        .join("lib/rustlib/src/rust/library")
        .join(PROOF)
        .is_file()
    {
        return Ok(Some(
            "rust-src, component of the nightly tool chain".to_owned(),
        ));
    }
    if !folder(cache).join("library").join(PROOF).is_file() {
        return Ok(None);
    }
    let Ok(have) = fs::read_to_string(folder(cache).join("version")) else {
        return Ok(None);
    };
    let fits = minor(&have).is_some() && minor(&have) == minor(&rust::nightly_version()?);
    Ok(fits.then(|| format!("{}, Debian's package, in the cache", have.trim())))
}

pub(super) fn make(cache: &Path) -> Result<()> {
    eprintln!("  rustup component add rust-src");
    let rustup = workspace::output(Command::new("rustup").args([
        "component",
        "add",
        "rust-src",
        "--toolchain",
        &nightly_name(),
    ]));
    let Err(refused) = rustup else { return Ok(()) };
    let refused = format!("{refused:#}");
    let reason = refused
        .lines()
        .find_map(|line| line.strip_prefix("error: "));
    eprintln!("  rustup cannot: {}", reason.unwrap_or(&refused));
    let version = rust::nightly_version()?;
    let wanted = minor(&version).with_context(|| format!("strange version: {version}"))?;
    from_debian(cache, wanted).with_context(|| {
        format!(
            "there is no source for {version}. What would help: `rustup component add rust-src \
             --toolchain nightly` with a connection; or `rustup update nightly` to a version that \
             Debian has too; or Debian's package rust-src 1.{wanted} unpacked by hand, its \
             /usr/src/rustc-*/library as {}/library and its version in a file `version` beside it",
            folder(cache).display()
        )
    })
}

fn folder(cache: &Path) -> PathBuf {
    cache.join("rust-src")
}

/// Minor version in "rustc 1.97.0-nightly (…)" or "1.97.1+dfsg1-1".
fn minor(version: &str) -> Option<u32> {
    let number = version
        .trim()
        .trim_start_matches("rustc ")
        .strip_prefix("1.")?;
    number.split('.').next()?.parse().ok()
}

/// Takes the first suite's package that has the minor version.
fn from_debian(cache: &Path, wanted: u32) -> Result<()> {
    for tool in ["apt-get", "apt-cache", "dpkg-deb", "tar"] {
        ensure!(
            in_path(tool),
            "Debian's package cannot be taken here: no {tool}"
        );
    }
    let mirror = mirror();
    let mut seen = String::new();
    for suite in SUITES {
        eprintln!("  looking at Debian {suite}");
        let apt = match Apt::new(cache, &mirror, suite) {
            Ok(apt) => apt,
            Err(error) => {
                writeln!(seen, "  {suite}: {error:#}")?;
                continue;
            }
        };
        match apt.candidate()? {
            Some(version) if minor(&version) == Some(wanted) => {
                eprintln!("  taking rust-src {version} (46 MB, downloaded and unpacked only)");
                return apt.unpack(cache, &version);
            }
            Some(version) => writeln!(seen, "  {suite}: {version}")?,
            None => writeln!(seen, "  {suite}: no rust-src")?,
        }
    }
    bail!("no suite of Debian has rust-src 1.{wanted}:\n{seen}")
}

/// The mirror that apt on this machine uses for Debian.
fn mirror() -> String {
    let targets = workspace::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]));
    let targets = targets.unwrap_or_default();
    let own = targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (origin, codename, uri) = (words.next()?, words.next()?, words.next()?);
        (origin == "Debian" && !codename.contains('-')).then(|| uri.to_owned())
    });
    own.unwrap_or_else(|| MIRROR.to_owned())
}

/// apt with its own list of sources and its own state: the system's is not touched, root not needed.
struct Apt {
    staging: Staging,
    options: Vec<String>,
}

impl Apt {
    fn new(cache: &Path, mirror: &str, suite: &str) -> Result<Self> {
        let staging = Staging::new(cache)?;
        let dir = staging.path();
        for folder in ["lists/partial", "cache/archives/partial", "made"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let sources = dir.join("sources.list");
        fs::write(
            &sources,
            format!("deb [signed-by={keyring}] {mirror} {suite} main\n"),
        )?;
        let options = [
            format!("Dir::Etc::SourceList={}", sources.display()),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", dir.join("lists").display()),
            format!("Dir::Cache={}", dir.join("cache").display()),
            "APT::Sandbox::User=".to_owned(), // the folder belongs to whoever runs this
            "Acquire::Languages=none".to_owned(),
        ];
        let apt = Self {
            staging,
            options: options.into(),
        };
        workspace::output(apt.command("apt-get").args(["update", "--error-on=any"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.staging.path()).env("LC_ALL", "C");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// The version that the suite has.
    fn candidate(&self) -> Result<Option<String>> {
        let versions = workspace::output(self.command("apt-cache").args(["madison", "rust-src"]))?;
        Ok(versions
            .lines()
            .find_map(|line| line.split('|').nth(1))
            .map(|v| v.trim().to_owned()))
    }

    fn unpack(self, cache: &Path, version: &str) -> Result<()> {
        let wanted = format!("rust-src={version}");
        workspace::output(self.command("apt-get").args(["download", &wanted]))?;
        let made = self.staging.path().join("made");
        let script = "dpkg-deb --fsys-tarfile rust-src_*.deb | tar --extract --directory=made \
                      --strip-components=4 --wildcards './usr/src/rustc-*/library/*'";
        workspace::output(
            Command::new("sh")
                .args(["-euc", script])
                .current_dir(self.staging.path()),
        )?;
        let proof = made.join("library").join(PROOF);
        ensure!(proof.is_file(), "the package has no {PROOF}");
        fs::write(made.join("version"), format!("{version}\n"))?;
        self.staging.publish(&made, &folder(cache))
    }
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn rust_and_debian_write_the_minor_version_differently() {
        for (text, expected) in [
            ("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)", Some(97)),
            ("1.97.1+dfsg1-1\n", Some(97)),
            ("1.85.1+dfsg2-3", Some(85)),
            ("2.0.0", None),
            ("", None),
        ] {
            assert_eq!(minor(text), expected, "{text:?}");
        }
    }
}
