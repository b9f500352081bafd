//! PURE: resources of well-known devices, as an entry of a configuration's `resources` would be: for `preset:` in it, or
//! to copy. Each file names where its facts are from; a file may have several resources, one a document.

/// The presets by name.
pub const PRESETS: [(&str, &str); 20] = [
    ("amd-gpu", include_str!("amd-gpu.yaml")),
    ("example", include_str!("example.yaml")),
    ("fuse", include_str!("fuse.yaml")),
    ("intel-dsa", include_str!("intel-dsa.yaml")),
    ("intel-fpga", include_str!("intel-fpga.yaml")),
    ("intel-gpu", include_str!("intel-gpu.yaml")),
    ("intel-qat", include_str!("intel-qat.yaml")),
    ("intel-sgx", include_str!("intel-sgx.yaml")),
    ("intel-vpu", include_str!("intel-vpu.yaml")),
    ("kvm", include_str!("kvm.yaml")),
    ("nvidia-gpu", include_str!("nvidia-gpu.yaml")),
    ("rdma", include_str!("rdma.yaml")),
    ("serial", include_str!("serial.yaml")),
    ("solarflare", include_str!("solarflare.yaml")),
    ("sriov-net", include_str!("sriov-net.yaml")),
    ("tun", include_str!("tun.yaml")),
    ("usb", include_str!("usb.yaml")),
    ("vfio", include_str!("vfio.yaml")),
    ("vhost-net", include_str!("vhost-net.yaml")),
    ("xilinx-fpga", include_str!("xilinx-fpga.yaml")),
];

/// The text of a preset.
pub fn text(name: &str) -> Option<&'static str> {
    PRESETS
        .iter()
        .find(|(preset, _)| *preset == name)
        .map(|(_, text)| *text)
}

#[cfg(test)]
mod tests;
