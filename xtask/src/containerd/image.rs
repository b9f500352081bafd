//! A container image made on the spot, without an engine and without a registry: one layer with a
//! static busybox, as an archive in OCI's layout. The same busybox gives the same bytes.

use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{env::consts::ARCH, fs};

/// Programs in the image, all of them busybox.
const APPLETS: [&str; 14] = [
    "cat", "echo", "head", "hostname", "httpd", "ip", "ls", "nc", "ping", "ping6", "sh", "sleep",
    "true", "wget",
];

/// Something in an archive.
pub(crate) enum Entry<'a> {
    Folder,
    File { bytes: &'a [u8], mode: u32 },
    Link { to: &'a str },
}

/// The archive of an image called `name`, for `ctr images import`.
///
/// # Errors
/// When there is no static busybox.
pub(crate) fn busybox(name: &str) -> Result<Vec<u8>> {
    let path = workspace::find("busybox").context("there is no busybox")?;
    ensure!(
        workspace::is_static(&path),
        "{} is not static",
        path.display()
    );
    let program = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(image(name, &program))
}

fn image(name: &str, busybox: &[u8]) -> Vec<u8> {
    let mut layer = Archive::default();
    for folder in ["bin", "etc", "tmp"] {
        layer.add(folder, &Entry::Folder);
    }
    layer.add(
        "bin/busybox",
        &Entry::File {
            bytes: busybox,
            mode: 0o755,
        },
    );
    for applet in APPLETS {
        layer.add(&format!("bin/{applet}"), &Entry::Link { to: "busybox" });
    }
    layer.add(
        "etc/passwd",
        &Entry::File {
            bytes: b"root:x:0:0:root:/:/bin/sh\n",
            mode: 0o644,
        },
    );
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] });
    pack(name, &config, &layer.finish())
}

/// The archive of an image of one layer. `settings` is what OCI calls the image's config.
pub(crate) fn pack(name: &str, settings: &Value, layer: &[u8]) -> Vec<u8> {
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": settings,
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
    .to_string();
    let mut listed = descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.as_bytes(),
    );
    listed["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string();

    let mut archive = Archive::default();
    let mut add = |path: &str, bytes| archive.add(path, &Entry::File { bytes, mode: 0o644 });
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json", index.as_bytes());
    for blob in [config.as_bytes(), manifest.as_bytes(), layer] {
        add(&format!("blobs/sha256/{}", hex(blob)), blob);
    }
    archive.finish()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A POSIX ustar archive: everything owned by root, made at the beginning of time.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    const BLOCK: usize = 512;

    /// Adds an entry; folders above it are the caller's to add.
    pub(crate) fn add(&mut self, path: &str, entry: &Entry<'_>) {
        let (kind, mode, bytes, link): (u8, u32, &[u8], &str) = match *entry {
            Entry::Folder => (b'5', 0o755, &[], ""),
            Entry::File { bytes, mode } => (b'0', mode, bytes, ""),
            Entry::Link { to } => (b'2', 0o777, &[], to),
        };
        let mut header = [0_u8; Self::BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000\x000000000"); // user and group: root
        put(124, format!("{:011o}", bytes.len()).as_bytes());
        put(136, b"00000000000"); // time
        put(148, b"        "); // checksum, counted as blanks
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(Self::BLOCK), 0);
    }

    /// The archive's bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * Self::BLOCK, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, process};

    #[test]
    fn the_same_program_gives_the_same_image() {
        assert_eq!(image("a/b:1", b"program"), image("a/b:1", b"program"));
        assert_ne!(image("a/b:1", b"program"), image("a/b:1", b"another"));
    }

    #[test]
    fn tar_reads_what_was_packed() {
        let mut archive = Archive::default();
        archive.add("bin", &Entry::Folder);
        archive.add(
            "bin/a",
            &Entry::File {
                bytes: &[b'x'; 700],
                mode: 0o755,
            },
        );
        archive.add("bin/b", &Entry::Link { to: "a" });
        let mut tar = process::Command::new("tar")
            .args(["-tv", "--numeric-owner", "-f", "-"])
            .stdin(process::Stdio::piped())
            .stdout(process::Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        let list = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines.len(), 3, "{list}");
        assert!(
            lines[0].starts_with("drwxr-xr-x 0/0") && lines[0].ends_with(" bin"),
            "{list}"
        );
        assert!(
            lines[1].starts_with("-rwxr-xr-x") && lines[1].contains(" 700 "),
            "{list}"
        );
        assert!(lines[2].ends_with("bin/b -> a"), "{list}");
    }
}
