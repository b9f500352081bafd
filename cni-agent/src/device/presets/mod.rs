//! PURE: resources of well-known devices, as an entry of a configuration's `resources` would be: for `preset:` in it, or
//! to copy. Each file names where its facts are from; a file may have several resources, one a document.

/// The presets by name.
pub const PRESETS: [(&str, &str); 5] = [
    ("example", include_str!("example.yaml")),
    ("kvm", include_str!("kvm.yaml")),
    ("serial", include_str!("serial.yaml")),
    ("tun", include_str!("tun.yaml")),
    ("vhost-net", include_str!("vhost-net.yaml")),
];

/// The text of a preset.
pub fn text(name: &str) -> Option<&'static str> {
    PRESETS
        .iter()
        .find(|(preset, _)| *preset == name)
        .map(|(_, text)| *text)
}
