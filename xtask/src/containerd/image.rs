//! A container image made on the spot, without an engine and without a registry: one layer with a
//! static busybox, as an archive in OCI's layout. The same busybox gives the same bytes.

use crate::{
    image::{
        archive::{Archive, Entry},
        oci::Image,
    },
    workspace,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{env::consts::ARCH, fs};

/// Programs in the image, all of them busybox.
const APPLETS: [&str; 14] = [
    "cat", "echo", "head", "hostname", "httpd", "ip", "ls", "nc", "ping", "ping6", "sh", "sleep",
    "true", "wget",
];

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
    image(name, &program)
}

fn image(name: &str, busybox: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Archive::new();
    for folder in ["bin", "etc", "tmp"] {
        layer.add(folder, &Entry::Folder { mode: 0o755 })?;
    }
    let program = Entry::File {
        bytes: busybox,
        mode: 0o755,
    };
    layer.add("bin/busybox", &program)?;
    for applet in APPLETS {
        layer.add(&format!("bin/{applet}"), &Entry::Link { to: "busybox" })?;
    }
    let users = Entry::File {
        bytes: b"root:x:0:0:root:/:/bin/sh\n",
        mode: 0o644,
    };
    layer.add("etc/passwd", &users)?;
    let image = Image {
        name,
        arch: ARCH,
        config: json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] }),
        layer: layer.finish()?,
        compress: false,
    };
    image.pack()
}
