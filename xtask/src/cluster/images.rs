//! The images that a cluster's pods run: packed from programs that are here, without an engine and
//! without a registry, and kept in the cache until a program changes.

use super::{
    objects::{AGNHOST, BUSYBOX, COREDNS, DNS_CLIENT, PAUSE},
    place::{Cluster, kubernetes},
    plan::Plan,
};
use crate::{
    image::{
        archive::{Archive, Entry},
        oci::Image,
    },
    setup, workspace,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Programs of the machine that the end-to-end tests run in agnhost.
const TOOLS: [&str; 8] = ["bash", "curl", "nc", "ip", "ss", "ping", "dig", "wget"];
/// Serves as a sandbox's first process: it waits, buries orphans and ends when asked.
const WAIT: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";

/// Files of an image by path, without a leading `/`.
#[derive(Default)]
struct Files(BTreeMap<String, Content>);

enum Content {
    File(Vec<u8>, u32),
    Link(String),
    Folder,
}

impl Files {
    fn file(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        self.0.insert(path.to_owned(), Content::File(bytes, mode));
    }

    fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(to, bytes, 0o755);
        Ok(())
    }

    fn link(&mut self, path: &str, to: &str) {
        self.0.insert(path.to_owned(), Content::Link(to.to_owned()));
    }

    fn layer(mut self) -> Result<Vec<u8>> {
        let paths: Vec<_> = self.0.keys().cloned().collect();
        for path in paths {
            for (at, _) in path.match_indices('/') {
                let above = path[..at].to_owned();
                self.0.entry(above).or_insert(Content::Folder);
            }
        }
        let mut archive = Archive::new();
        // In the order of their names, a folder comes before what is in it.
        for (path, content) in &self.0 {
            let entry = match content {
                Content::File(bytes, mode) => Entry::File { bytes, mode: *mode },
                Content::Link(to) => Entry::Link { to },
                Content::Folder => Entry::Folder { mode: 0o755 },
            };
            archive.add(path, &entry)?;
        }
        archive.finish()
    }
}

/// Archives of all images that a cluster of this plan needs.
///
/// # Errors
/// When a program is missing or the cache cannot be written.
pub(super) fn archives(plan: &Plan) -> Result<Vec<PathBuf>> {
    let busybox = workspace::find("busybox").context("there is no busybox")?;
    let agnhost = kubernetes("agnhost")?;
    let sh = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"] });
    let pause = json!({ "Entrypoint": ["/bin/sh", "-c", WAIT], "Env": ["PATH=/bin"] });
    let mut all = vec![
        cached(PAUSE, &pause, &[&busybox], || base(&busybox))?,
        cached(BUSYBOX, &sh, &[&busybox], || base(&busybox))?,
        cached(
            AGNHOST,
            &json!({ "Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": ["PATH=/usr/bin:/bin"] }),
            &[&busybox, &agnhost],
            || {
                let mut files = with_tools(&busybox)?;
                files.copy(&agnhost, "agnhost")?;
                certificate(&mut files)?;
                Ok(files)
            },
        )?,
        cached(DNS_CLIENT, &sh, &[&busybox], || with_tools(&busybox))?,
    ];
    if plan.dns {
        let [_, _, folder] = setup::cluster_programs()?;
        let program = folder.join("coredns");
        let files = || {
            let mut files = Files::default();
            files.copy(&program, "coredns")?;
            Ok(files)
        };
        let config = json!({ "Entrypoint": ["/coredns"] });
        all.push(cached(COREDNS, &config, &[&program], files)?);
    }
    Ok(all)
}

/// agnhost under the name that the conformance tests of cluster-wide policies have for it. They want a server
/// for SCTP in every pod: where the kernel has none, `xtask sctp` plays both ends.
///
/// # Errors
/// When a program is missing or the cache cannot be written.
pub(super) fn of_conformance() -> Result<PathBuf> {
    let busybox = workspace::find("busybox").context("there is no busybox")?;
    let agnhost = kubernetes("agnhost")?;
    let config = json!({ "Cmd": ["/agnhost", "pause"], "Env": ["PATH=/usr/bin:/bin"] });
    cached(CONFORMANCE, &config, &[&busybox, &agnhost], || {
        let mut files = with_tools(&busybox)?;
        files.copy(&agnhost, "agnhost-itself")?;
        add_program(&mut files, &std::env::current_exe()?, "usr/bin/xtask")?;
        files.file("agnhost", WITHOUT_SCTP.into(), 0o755);
        Ok(files)
    })
}

/// As the tests' manifests write it.
const CONFORMANCE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.45";
const WITHOUT_SCTP: &str = r#"#!/bin/bash
if ! grep -q ^SCTP /proc/net/protocols; then
    case "$*" in
    porter) for name in ${!SERVE_SCTP_PORT_*}; do exec xtask sctp serve "${name##*_}"; done ;;
    "connect --timeout=3s --protocol=sctp "*) exec xtask sctp connect --timeout 3000 "$4" ;;
    esac
fi
exec /agnhost-itself "$@"
"#;

/// Keeps an archive with the cluster, since nodes that join get what the others have; answers where.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn keep(cluster: &Cluster, archive: &Path) -> Result<PathBuf> {
    let folder = cluster.dir().join("images");
    fs::create_dir_all(&folder)?;
    let kept = folder.join(archive.file_name().context("an archive has a name")?);
    fs::copy(archive, &kept).with_context(|| format!("no image in {}", archive.display()))?;
    Ok(kept)
}

/// The archives that were kept.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn kept(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let folder = cluster.dir().join("images");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The archive from the cache, packed first when it is not there or older than a program in it.
fn cached(
    name: &str,
    config: &Value,
    programs: &[&Path],
    files: impl FnOnce() -> Result<Files>,
) -> Result<PathBuf> {
    let folder = setup::cache()?.join("cluster-images");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    let time = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).ok();
    let packed = time(&path);
    // This program is the recipe.
    let recipe = std::env::current_exe()?;
    let mut sources = programs.iter().copied().chain([&*recipe]);
    let current = sources.all(|source| time(source) < packed);
    if !current {
        eprintln!("  packing {name}");
        let image = Image {
            name,
            arch: std::env::consts::ARCH,
            config: config.clone(),
            layer: files()?.layer()?,
            compress: false,
        };
        let bytes = image.pack()?;
        let new = tempfile::NamedTempFile::new_in(&folder)?;
        fs::write(new.path(), bytes)?;
        new.persist(&path)?;
    }
    Ok(path)
}

/// Busybox under all its names, and users.
fn base(busybox: &Path) -> Result<Files> {
    let mut files = Files::default();
    files.copy(busybox, "bin/busybox")?;
    for applet in workspace::output(Command::new(busybox).arg("--list"))?.lines() {
        if applet != "busybox" {
            files.link(&format!("bin/{applet}"), "busybox");
        }
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    files.file("etc/passwd", users.into(), 0o644);
    files.file("etc/group", "root:x:0:\nnogroup:x:65534:\n".into(), 0o644);
    files.file("etc/nsswitch.conf", "hosts: files dns\n".into(), 0o644);
    for folder in ["tmp", "root", "proc", "sys", "dev", "uploads", "var/run"] {
        files.0.insert(folder.to_owned(), Content::Folder);
    }
    Ok(files)
}

/// Busybox with the machine's own tools, since the tests want more than it has, and Debian's static one
/// crashes where it asks the C library for a name (its wget).
fn with_tools(busybox: &Path) -> Result<Files> {
    let mut files = base(busybox)?;
    for tool in TOOLS {
        let Some(program) = workspace::find(tool) else {
            eprintln!("  (without {tool}, which is not on this machine)");
            continue;
        };
        files.0.remove(&format!("bin/{tool}"));
        let program = fs::canonicalize(program)?;
        add_program(&mut files, &program, &format!("usr/bin/{tool}"))?;
    }
    // The tests' scripts are bash's.
    if files.0.contains_key("usr/bin/bash") {
        files.link("bin/sh", "../usr/bin/bash");
        files.link("bin/bash", "../usr/bin/bash");
    }
    Ok(files)
}

/// A program with the libraries that it needs.
fn add_program(files: &mut Files, program: &Path, at: &str) -> Result<()> {
    files.copy(program, at)?;
    let listed = workspace::output(Command::new("ldd").arg(program)).unwrap_or_default();
    let libraries = listed.split_whitespace();
    for library in libraries.filter(|word| word.starts_with('/')) {
        let at = library.trim_start_matches('/');
        files.copy(&fs::canonicalize(library)?, at)?;
    }
    Ok(())
}

/// What agnhost's servers with TLS show to clients that don't look at it.
fn certificate(files: &mut Files) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [key, cert] = ["localhost.key", "localhost.crt"].map(|name| folder.path().join(name));
    workspace::output(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "3650"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert),
    )?;
    files.file("localhost.key", fs::read(key)?, 0o644);
    files.file("localhost.crt", fs::read(cert)?, 0o644);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_added_above_what_is_in_them() {
        let mut files = Files::default();
        files.file("a/b/c", b"x".to_vec(), 0o644);
        let layer = files.layer().unwrap();
        let names: Vec<_> = layer
            .chunks(512)
            .filter(|block| block.get(257..262) == Some(b"ustar"))
            .map(|block| {
                let name = block.split(|byte| *byte == 0).next().unwrap();
                String::from_utf8(name.to_vec()).unwrap()
            })
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
    }
}
