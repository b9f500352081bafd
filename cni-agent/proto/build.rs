//! Generates types, clients and servers from the interfaces in `proto`, by a compiler in Rust: nobody needs
//! protoc.

use std::error::Error;

const FILES: [&str; 2] = ["proto/csi.proto", "proto/plugin_registration.proto"];
/// Requests with secrets in them: who prints one has to say how.
const SECRET: [&str; 23] = [
    "CreateVolumeRequest",
    "DeleteVolumeRequest",
    "ControllerPublishVolumeRequest",
    "ControllerPublishVolumeResponse",
    "ControllerUnpublishVolumeRequest",
    "ValidateVolumeCapabilitiesRequest",
    "ControllerModifyVolumeRequest",
    "ControllerExpandVolumeRequest",
    "ControllerListVolumeHealthRequest",
    "ControllerGetVolumeHealthRequest",
    "CreateSnapshotRequest",
    "DeleteSnapshotRequest",
    "ListSnapshotsRequest",
    "GetSnapshotRequest",
    "CreateVolumeGroupSnapshotRequest",
    "DeleteVolumeGroupSnapshotRequest",
    "GetVolumeGroupSnapshotRequest",
    "GetMetadataAllocatedRequest",
    "GetMetadataDeltaRequest",
    "NodeStageVolumeRequest",
    "NodePublishVolumeRequest",
    "NodeExpandVolumeRequest",
    "NodeGetStorageHealthRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let files = protox::compile(FILES, ["proto"])?;
    let secret = SECRET.map(|message| format!("csi.v1.{message}"));
    tonic_prost_build::configure()
        .skip_debug(secret)
        .compile_fds(files)?;
    Ok(())
}
