//! An image of one layer, as an archive in OCI's layout (image-spec 1.1) for `ctr images import`,
//! `podman load` and `skopeo copy oci-archive:`.

use super::archive::{Archive, Entry, gzip};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What an image is made of.
pub(crate) struct Image<'a> {
    /// With its tag, as in `ghcr.io/fairlead/fairlead:1.2.3`.
    pub(crate) name: &'a str,
    /// As the compiler calls it: `x86_64`, `aarch64`.
    pub(crate) arch: &'a str,
    /// `config` of the image: entry point, environment, labels.
    pub(crate) config: Value,
    /// The layer, a tar archive.
    pub(crate) layer: Vec<u8>,
    /// Takes time, and is for what travels.
    pub(crate) compress: bool,
}

impl Image<'_> {
    /// The archive. The same image gives the same bytes.
    ///
    /// # Errors
    /// When OCI has no word for the processor.
    pub(crate) fn pack(&self) -> Result<Vec<u8>> {
        let (layer, kind) = if self.compress {
            (Cow::from(gzip(&self.layer)?), format!("{LAYER}+gzip"))
        } else {
            (Cow::from(&self.layer), LAYER.to_owned())
        };
        let architecture = architecture(self.arch)?;
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": self.config,
            // Of the layer as it is unpacked.
            "rootfs": { "type": "layers", "diff_ids": [digest(&self.layer)] },
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config.as_bytes()),
            "layers": [descriptor(&kind, &layer)],
        })
        .to_string();
        let mut listed = descriptor(MANIFEST, manifest.as_bytes());
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        listed["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        listed["platform"] = json!({ "architecture": architecture, "os": "linux" });
        let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string();

        let mut archive = Archive::new();
        let file = |bytes| Entry::File { bytes, mode: 0o644 };
        archive.add("oci-layout", &file(br#"{"imageLayoutVersion":"1.0.0"}"#))?;
        archive.add("index.json", &file(index.as_bytes()))?;
        for folder in ["blobs", "blobs/sha256"] {
            archive.add(folder, &Entry::Folder { mode: 0o755 })?;
        }
        let mut blobs = [config.as_bytes(), manifest.as_bytes(), &layer].map(|b| (hex(b), b));
        blobs.sort();
        for (name, blob) in blobs {
            archive.add(&format!("blobs/sha256/{name}"), &file(blob))?;
        }
        archive.finish()
    }
}

/// Go's word for a processor.
fn architecture(arch: &str) -> Result<&'static str> {
    Ok(match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("there is no image for {other}: x86_64 or aarch64"),
    })
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// The SHA-256 of something, as it is written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::{collections::BTreeMap, io::Read};

    fn layer(program: &[u8]) -> Vec<u8> {
        let mut layer = Archive::new();
        layer.add("usr", &Entry::Folder { mode: 0o755 }).unwrap();
        let file = Entry::File {
            bytes: program,
            mode: 0o755,
        };
        layer.add("usr/program", &file).unwrap();
        layer.finish().unwrap()
    }

    fn packed(program: &[u8], arch: &str) -> Vec<u8> {
        let image = Image {
            name: "registry.example/a/b:1.2",
            arch,
            config: json!({ "Entrypoint": ["/usr/program"] }),
            layer: layer(program),
            compress: true,
        };
        image.pack().unwrap()
    }

    /// Files by path, in the archive's order: (path, mtime, bytes).
    fn unpack(archive: &[u8]) -> Vec<(String, u64, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let read = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (path, entry.header().mtime().unwrap(), bytes)
        });
        read.collect()
    }

    #[test]
    fn packing_twice_gives_the_same_bytes_and_another_program_others() {
        let packed = |program| packed(program, "x86_64");
        assert_eq!(packed(b"program"), packed(b"program"));
        assert_ne!(packed(b"program"), packed(b"another"));
    }

    #[test]
    fn each_descriptor_leads_to_the_bytes_that_it_names() {
        let files = unpack(&packed(b"program", "x86_64"));
        assert!(files.iter().all(|(_, mtime, _)| *mtime == 0));
        let files: BTreeMap<_, _> = files.into_iter().map(|(p, _, b)| (p, b)).collect();
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let follow = |descriptor: &Value| {
            let name = descriptor["digest"].as_str().unwrap().replace(':', "/");
            let bytes = &files[&format!("blobs/{name}")];
            assert_eq!(digest(bytes), descriptor["digest"].as_str().unwrap());
            assert_eq!(descriptor["size"], bytes.len());
            bytes.clone()
        };
        let index = parse(&files["index.json"]);
        let listed = &index["manifests"][0];
        let annotations = &listed["annotations"];
        assert_eq!(
            annotations["io.containerd.image.name"],
            "registry.example/a/b:1.2"
        );
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "1.2");
        let manifest = parse(&follow(listed));
        let config = parse(&follow(&manifest["config"]));
        assert_eq!(config["architecture"], "amd64");
        let mut unpacked = Vec::new();
        let packed = follow(&manifest["layers"][0]);
        GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&unpacked));
        let inside = unpack(&unpacked);
        assert_eq!(inside[1].0, "usr/program");
        assert_eq!(inside[1].2, b"program");
    }

    #[test]
    fn index_and_config_name_the_processor_in_gos_words() {
        for (arch, word) in [("x86_64", "amd64"), ("aarch64", "arm64")] {
            let files: BTreeMap<_, _> = unpack(&packed(b"program", arch))
                .into_iter()
                .map(|(path, _, bytes)| (path, bytes))
                .collect();
            let parse = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
            let blob = |descriptor: &Value| {
                let name = descriptor["digest"].as_str().unwrap().replace(':', "/");
                parse(&format!("blobs/{name}"))
            };
            let listed = &parse("index.json")["manifests"][0];
            let config = blob(&blob(listed)["config"]);
            for place in [&listed["platform"], &config] {
                assert_eq!(place["architecture"], word, "{arch}");
                assert_eq!(place["os"], "linux", "{arch}");
            }
        }
    }

    #[test]
    fn a_processor_without_an_image_is_refused_by_name() {
        let error = architecture("riscv64").unwrap_err().to_string();
        assert!(error.contains("riscv64"), "{error}");
    }
}
