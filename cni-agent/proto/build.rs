//! Generates types, clients and servers from the interfaces in `proto`, by a compiler in Rust: nobody needs
//! protoc.

use protox::prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use std::{env, error::Error, fs, path::Path};

const FILES: [&str; 6] = [
    "proto/csi.proto",
    "proto/device_plugin.proto",
    "proto/dra.proto",
    "proto/dra_health.proto",
    "proto/plugin_registration.proto",
    "proto/pod_resources.proto",
];
const PACKAGE: &str = "csi.v1";

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(FILES)?;
    tonic_prost_build::configure()
        .skip_debug(unprintable(&compiler.descriptor_pool()))
        .compile_fds(compiler.file_descriptor_set())?;
    let out = env::var("OUT_DIR")?;
    fs::write(
        Path::new(&out).join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    Ok(())
}

/// Messages in which somebody's words may be, themselves or in what they hold: secrets, contexts, parameters. Who
/// prints one has to say how.
fn unprintable(pool: &DescriptorPool) -> Vec<String> {
    let of_package = pool
        .all_messages()
        .filter(|message| message.package_name() == PACKAGE);
    let free = of_package.filter(|message| !message.is_map_entry() && has_words(message));
    free.map(|message| format!(".{}", message.full_name()))
        .collect()
}

/// Whether a map of strings is in it. No message holds itself.
fn has_words(message: &MessageDescriptor) -> bool {
    message.fields().any(|field| match field.kind() {
        Kind::Message(_) if field.is_map() => true,
        Kind::Message(inner) => has_words(&inner),
        _ => false,
    })
}
