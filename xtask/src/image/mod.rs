//! `cargo xtask image`: the container image that the DaemonSet runs, as an archive. No engine, no
//! registry and no base image: two static programs are all there is in it.

pub(crate) mod archive;
pub(crate) mod oci;

use crate::{build, workspace};
use anyhow::{Context, Result};
use archive::{Archive, Entry};
use oci::Image;
use serde_json::{Value, json};
use std::{env, fs, path::PathBuf};

/// Where the image is published.
const REPOSITORY: &str = "ghcr.io/fairlead/fairlead";
/// Where the programs are in it.
const FOLDER: &str = "usr/bin";

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
    let image = Image {
        name: &name,
        arch: &args.arch,
        config: config(),
        layer: layer(&read("fairlead")?, &read("fairlead-cni")?)?,
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

/// The programs. A runtime makes the folders itself that it mounts something on.
fn layer(agent: &[u8], plugin: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Archive::new();
    for folder in ["usr", FOLDER] {
        layer.add(folder, &Entry::Folder { mode: 0o755 })?;
    }
    for (name, bytes) in [("fairlead", agent), ("fairlead-cni", plugin)] {
        let mode = 0o755;
        layer.add(&format!("{FOLDER}/{name}"), &Entry::File { bytes, mode })?;
    }
    layer.finish()
}

fn config() -> Value {
    json!({
        "Entrypoint": [format!("/{FOLDER}/fairlead")],
        "Cmd": ["agent"],
        "Env": [format!("PATH=/{FOLDER}")],
        "Labels": {
            "org.opencontainers.image.title": "fairlead",
            "org.opencontainers.image.description": "Network of a Kubernetes node: agent and CNI plugin",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
            "org.opencontainers.image.licenses": "(Apache-2.0 OR MIT) AND GPL-2.0-only",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What `tar` and unpackers need: each folder stands before what is in it.
    #[test]
    fn the_layer_holds_two_programs_and_the_folders_above_them() {
        let layer = layer(b"agent", b"plugin").unwrap();
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
