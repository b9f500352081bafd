//! `cargo xtask image`: the container image that the DaemonSet runs, as an archive. No engine, no
//! registry and no base image: two static programs are in it, and the machine's own that make, check and grow
//! the file systems of volumes, with their libraries.

pub(crate) mod archive;
pub(crate) mod files;
pub(crate) mod oci;

use crate::{build, setup, workspace};
use anyhow::{Context, Result};
use files::Files;
use oci::Image;
pub(crate) use oci::hex;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the image is published.
const REPOSITORY: &str = "ghcr.io/fairlead/fairlead";
/// Where the programs are in it.
const FOLDER: &str = "usr/bin";
/// What volumes need (`--parts csi`): of Debian's e2fsprogs and xfsprogs.
const VOLUMES: [&str; 5] = ["e2fsck", "mkfs.ext4", "mkfs.xfs", "resize2fs", "xfs_growfs"];

/// Pack the container image of the agent: an OCI archive for `ctr images import`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to write the archive [default: target/fairlead/image.tar; image-ARCH.tar
    /// for another processor].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Processor that the image is for.
    #[arg(long, value_parser = ["x86_64", "aarch64"], default_value = env::consts::ARCH)]
    arch: String,
    /// The image's name, with a tag [default: ghcr.io/fairlead/fairlead:VERSION].
    #[arg(long)]
    name: Option<String>,
}

/// Builds the programs, packs them and says where the image is.
///
/// # Errors
/// When a program can't be built or the archive can't be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = build::ensure_built_for(&args.arch)?;
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION")));
    let mut files = programs(read("fairlead")?, read("fairlead-cni")?);
    match args.arch == env::consts::ARCH {
        true => volumes(&mut files)?,
        false => eprintln!(
            "without {}, which are not here for {}: its nodes can't have volumes (--parts csi)",
            VOLUMES.join(", "),
            args.arch
        ),
    }
    let image = Image {
        name: &name,
        arch: &args.arch,
        config: config(),
        layer: files.layer()?,
        compress: true,
    };
    let packed = image.pack()?;
    let usual = if args.arch == env::consts::ARCH {
        "image.tar".to_owned()
    } else {
        format!("image-{}.tar", args.arch)
    };
    let output = args.output.clone();
    let output = output.unwrap_or_else(|| workspace::binaries().join(usual));
    if let Some(above) = output
        .parent()
        .filter(|above| !above.as_os_str().is_empty())
    {
        fs::create_dir_all(above).with_context(|| format!("making {}", above.display()))?;
    }
    fs::write(&output, &packed).with_context(|| format!("writing {}", output.display()))?;
    println!(
        "{} ({:.1} MiB, {name})",
        output.display(),
        packed.len() as f64 / f64::from(1 << 20)
    );
    Ok(())
}

/// The project's programs. A runtime makes the folders itself that it mounts something on.
fn programs(agent: Vec<u8>, plugin: Vec<u8>) -> Files {
    let mut files = Files::default();
    for (name, bytes) in [("fairlead", agent), ("fairlead-cni", plugin)] {
        files.file(&format!("{FOLDER}/{name}"), bytes, 0o755);
    }
    files
}

/// The programs of volumes, and the licences of their packages.
fn volumes(files: &mut Files) -> Result<()> {
    setup::ensure_extra(setup::Extra::FileSystems)?;
    let mut sources = BTreeSet::new();
    for name in VOLUMES {
        let program = workspace::find(name).with_context(|| format!("there is no {name}"))?;
        let program = fs::canonicalize(program)?;
        sources.extend(files.program(&program, &format!("{FOLDER}/{name}"))?);
    }
    for source in &sources {
        let Some((package, licence)) = licence(source) else {
            eprintln!(
                "no Debian package tells the licence of {}",
                source.display()
            );
            continue;
        };
        files.file(
            &format!("usr/share/doc/{package}/copyright"),
            licence,
            0o644,
        );
    }
    Ok(())
}

/// Name and licence of the Debian package that a file of the machine is of.
fn licence(file: &Path) -> Option<(String, Vec<u8>)> {
    // By its name: a package may have it in /lib, which is /usr/lib now.
    let pattern = format!("*/{}", file.file_name()?.to_str()?);
    let found = workspace::output(Command::new("dpkg-query").args(["--search", &pattern])).ok()?;
    let (package, _) = found.lines().next()?.split_once(':')?;
    let text = fs::read(format!("/usr/share/doc/{package}/copyright")).ok()?;
    Some((package.to_owned(), text))
}

fn config() -> Value {
    json!({
        "Entrypoint": [format!("/{FOLDER}/fairlead")],
        "Cmd": ["agent"],
        "Env": [format!("PATH=/{FOLDER}")],
        "Labels": {
            "org.opencontainers.image.title": "fairlead",
            "org.opencontainers.image.description": "Network, volumes and devices of a Kubernetes node: agent, CNI plugin, CSI driver, device plugins",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
            "org.opencontainers.image.licenses": "(Apache-2.0 OR MIT) AND GPL-2.0-only AND LGPL-2.1-or-later AND BSD-3-Clause",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tar` and unpackers need: each folder stands before what is in it.
    #[test]
    fn the_layer_holds_two_programs_and_the_folders_above_them() {
        let files = programs(b"agent".to_vec(), b"plugin".to_vec());
        let layer = files.layer().unwrap();
        let mut archive = tar::Archive::new(&*layer);
        let (mut seen, mut programs) = (BTreeSet::from([PathBuf::new()]), Vec::new());
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            assert!(seen.contains(path.parent().unwrap()), "{}", path.display());
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.mode().unwrap()), (0, 0o755));
            if header.entry_type().is_file() {
                programs.push(path.display().to_string());
            }
            seen.insert(path);
        }
        assert_eq!(programs, ["usr/bin/fairlead", "usr/bin/fairlead-cni"]);
    }
}
