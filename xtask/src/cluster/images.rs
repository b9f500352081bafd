//! The images that a cluster's pods run: packed from programs that are here, without an engine and
//! without a registry, and kept in the cache until a program changes.

use super::{
    objects::{AGNHOST, BUSYBOX, COREDNS, DNS_CLIENT, PAUSE},
    place::{Cluster, kubernetes},
    plan::Plan,
};
use crate::{
    image::{files::Files, oci::Image},
    setup, workspace,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Programs of the machine that the end-to-end tests run in agnhost.
const TOOLS: [&str; 9] = [
    "bash", "curl", "nc", "ip", "ss", "ping", "dig", "wget", "dd",
];
/// Serves as a sandbox's first process: it waits, buries orphans and ends when asked.
const WAIT: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";

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

/// Kubernetes' helpers of CSI drivers, under the names that deploy/storage has for them.
///
/// # Errors
/// When a program is missing or the cache cannot be written.
pub(super) fn of_sidecars() -> Result<Vec<PathBuf>> {
    let folders = setup::sidecars()?;
    let pack = |(name, tag): (&str, &str)| {
        let places = folders.iter().map(|folder| folder.join(name));
        let mut there = places.filter(|program| program.is_file());
        let program = there
            .next()
            .with_context(|| format!("{name} is not built"))?;
        let files = || {
            let mut files = Files::default();
            files.copy(&program, name)?;
            Ok(files)
        };
        let image = format!("registry.k8s.io/sig-storage/{name}:{tag}");
        let config = json!({ "Entrypoint": [format!("/{name}")] });
        cached(&image, &config, &[&program], files)
    };
    SIDECARS.into_iter().map(pack).collect()
}

/// What the tests of CSI drivers run as nginx: a shell, and nothing else of it.
///
/// # Errors
/// When a program is missing or the cache cannot be written.
pub(super) fn of_storage_tests() -> Result<PathBuf> {
    let busybox = workspace::find("busybox").context("there is no busybox")?;
    let config = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"] });
    cached(NGINX, &config, &[&busybox], || base(&busybox))
}

const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.15-4";

/// As deploy/storage and the pins of xtask have them.
const SIDECARS: [(&str, &str); 5] = [
    ("csi-provisioner", "v6.3.0"),
    ("csi-attacher", "v4.13.0"),
    ("csi-resizer", "v2.3.0"),
    ("csi-snapshotter", "v8.7.0"),
    ("snapshot-controller", "v8.7.0"),
];

/// A shell, and the program that uses devices for what they are there for.
///
/// # Errors
/// When a program is missing or the cache cannot be written.
pub(super) fn of_devices() -> Result<PathBuf> {
    let busybox = workspace::find("busybox").context("there is no busybox")?;
    let config = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/sbin"] });
    cached(DEVICES, &config, &[&busybox], || {
        let mut files = base(&busybox)?;
        files.program(&std::env::current_exe()?, "usr/bin/xtask")?;
        Ok(files)
    })
}

/// Its name.
pub(super) const DEVICES: &str = "fairlead.test/devices:1";

/// What the tests of claims for devices run as hostpathplugin: a shell, and `xtask hostpath-proxy`.
///
/// # Errors
/// When a program is missing or the cache cannot be written.
pub(super) fn of_device_tests() -> Result<PathBuf> {
    let busybox = workspace::find("busybox").context("there is no busybox")?;
    let config = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"] });
    cached(HOSTPATH, &config, &[&busybox], || {
        let mut files = base(&busybox)?;
        files.program(&std::env::current_exe()?, "usr/bin/xtask")?;
        let proxy = "#!/bin/sh\nexec xtask hostpath-proxy \"$@\"\n";
        files.file("hostpathplugin", proxy.into(), 0o755);
        Ok(files)
    })
}

/// As the pinned tests write it.
const HOSTPATH: &str = "registry.k8s.io/sig-storage/hostpathplugin:v1.17.1";

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
        files.program(&std::env::current_exe()?, "usr/bin/xtask")?;
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
        files.folder(folder);
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
        files.remove(&format!("bin/{tool}"));
        let program = fs::canonicalize(program)?;
        files.program(&program, &format!("usr/bin/{tool}"))?;
    }
    // The tests' scripts are bash's.
    if files.has("usr/bin/bash") {
        files.link("bin/sh", "../usr/bin/bash");
        files.link("bin/bash", "../usr/bin/bash");
    }
    Ok(files)
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
    fn each_sidecar_is_named_and_pinned_in_one_version() {
        let root = workspace::root();
        let pins = ["provisioner", "sidecars"].map(|module| {
            fs::read_to_string(root.join(format!("xtask/go-csi-{module}/go.mod"))).unwrap()
        });
        let manifests = [
            "sidecars/node",
            "sidecars/controller",
            "snapshot-controller/controller",
        ];
        let manifests = manifests.map(|name| {
            fs::read_to_string(root.join(format!("deploy/storage/{name}.yaml"))).unwrap()
        });
        for (name, tag) in SIDECARS {
            assert!(pins.concat().contains(&format!(" {tag} ")), "{name} {tag}");
            let image = format!("registry.k8s.io/sig-storage/{name}:{tag}\n");
            assert!(manifests.concat().contains(&image), "{image}");
        }
    }
}
