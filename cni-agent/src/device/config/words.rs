//! PURE: the small languages in a configuration's texts: patterns, paths, numbers of hardware, times, names. Each says
//! what is wrong with a text and what to write instead.

use crate::device::plan::{Pattern, Permissions};
use std::time::Duration;

/// Longest text that is read, in characters.
pub(super) const LONGEST_TEXT: usize = 4096;
/// Longest name or pattern.
pub(super) const LONGEST_NAME: usize = 255;

/// `1h30m`, `500ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut whole) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        let millis = number.parse::<u64>().ok()?.checked_mul(millis)?;
        whole = whole.checked_add(Duration::from_millis(millis))?;
        rest = tail;
    }
    Some(whole).filter(|_| !text.is_empty())
}

/// A time as people write it.
pub(super) fn written(time: Duration) -> String {
    let seconds = time.as_secs();
    match (time.subsec_millis(), seconds % 3600, seconds % 60) {
        (0, 0, _) if seconds > 0 => format!("{}h", seconds / 3600),
        (0, _, 0) if seconds > 0 => format!("{}m", seconds / 60),
        (0, ..) => format!("{seconds}s"),
        _ => format!("{}ms", time.as_millis()),
    }
}

/// A pattern of shells.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern(text.to_owned());
    pattern.check().map(|()| pattern)
}

pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// An absolute path that goes down only.
pub(super) fn absolute(text: &str) -> Result<(), String> {
    let Some(below) = text.strip_prefix('/') else {
        return Err(format!(
            "{text:?} is not absolute; write the whole path, beginning with `/`"
        ));
    };
    if below.split('/').any(|part| part == "..") {
        return Err(format!(
            "{text:?} leaves its folder by `..`; write the path itself"
        ));
    }
    if below.is_empty() {
        return Err("is the root of everything; write the path below it that is meant".to_owned());
    }
    if below.split('/').any(|part| part.is_empty() || part == ".") {
        let parts: Vec<&str> = below
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .collect();
        return Err(format!(
            "{text:?} has parts that say nothing; write /{}",
            parts.join("/")
        ));
    }
    Ok(())
}

/// A path of a file of a device on the node.
pub(super) fn below_dev(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!(
            "{text:?} is not absolute; write /dev/{}",
            text.trim_start_matches("dev/")
        ));
    }
    if text.trim_end_matches('/') == "/dev" {
        return Err(
            "is every device of the node; write the path below /dev that is meant".to_owned(),
        );
    }
    absolute(text)?;
    if !text.starts_with("/dev/") {
        return Err(format!(
            "{text:?} is not below /dev, where files of devices are; write a path below it, and other files into give.mounts"
        ));
    }
    Ok(())
}

/// A path, or pattern of paths, of files of devices.
pub(super) fn device_pattern(text: &str) -> Result<Pattern, String> {
    below_dev(text)?;
    let first = text["/dev/".len()..].split('/').next().unwrap_or_default();
    if !outside_groups(first).any(char::is_alphanumeric) {
        return Err(format!(
            "{text:?} is every device of the node; write more of the name, like /dev/ttyUSB*"
        ));
    }
    pattern(text)
}

/// The signs of a pattern that are in no `[…]`: what each name has that is like it.
fn outside_groups(pattern: &str) -> impl Iterator<Item = char> {
    let mut signs = pattern.chars();
    std::iter::from_fn(move || {
        loop {
            match signs.next()? {
                '[' => {
                    // A `]` that is the first of them is one of them.
                    let first = signs.next()?;
                    if matches!(first, '!' | '^') {
                        signs.next()?;
                    }
                    signs.find(|sign| *sign == ']')?;
                }
                sign => return Some(sign),
            }
        }
    })
}

/// `digits` hexadecimal digits, or a pattern of them; `0x` in front is taken off.
pub(super) fn hexadecimal(text: &str, digits: usize) -> Result<Pattern, String> {
    let lower = text.to_lowercase();
    let bare = lower.strip_prefix("0x").unwrap_or(&lower);
    if !bare
        .chars()
        .all(|c| c.is_ascii_hexdigit() || "*?[]!-".contains(c))
    {
        return Err(format!(
            "{text:?} is no number in hexadecimal digits; write {digits} of 0-9 and a-f, like \"8086\""
        ));
    }
    if !is_pattern(bare) && bare.len() != digits {
        let padded = format!("{bare:0>digits$}");
        let remedy = match bare.len() < digits {
            true => format!("write \"{padded}\""),
            false => format!("write {digits}"),
        };
        return Err(format!(
            "{text:?} has {} digits in place of {digits}; {remedy}",
            bare.len()
        ));
    }
    pattern(bare)
}

/// A class of PCI, or its beginning.
pub(super) fn class(text: &str) -> Result<String, String> {
    let lower = text.to_lowercase();
    let bare = lower.strip_prefix("0x").unwrap_or(&lower);
    match bare.chars().all(|c| c.is_ascii_hexdigit()) && matches!(bare.len(), 2 | 4 | 6) {
        true => Ok(bare.to_owned()),
        false => Err(format!(
            "{text:?} is no class of PCI; write its first 2, 4, or all 6 hexadecimal digits, without patterns, like \"0300\""
        )),
    }
}

/// An address of PCI or a pattern of them; without a domain, the first one is meant.
pub(super) fn pci_address(text: &str) -> Result<Pattern, String> {
    let lower = text.to_lowercase();
    let known = |c: char| c.is_ascii_hexdigit() || ":.*?[]!-".contains(c);
    let whole = match lower.matches(':').count() {
        1 => format!("0000:{lower}"),
        _ => lower,
    };
    let shape = |text: &str| {
        let (front, function) = text.split_once('.')?;
        let parts: Vec<&str> = front.split(':').collect();
        (parts.iter().map(|part| part.len()).collect::<Vec<_>>() == [4, 2, 2]
            && function.len() == 1)
            .then_some(())
    };
    if !whole.chars().all(known) || (!is_pattern(&whole) && shape(&whole).is_none()) {
        return Err(format!(
            "{text:?} is no address of PCI; write one like \"0000:3b:00.0\", or a pattern like \"0000:3b:*\""
        ));
    }
    pattern(&whole)
}

/// Letters of `r`, `w` and `m`, each once.
pub(super) fn permissions(text: &str) -> Result<Permissions, String> {
    const REMEDY: &str = "write some of r (read), w (write) and m (mknod), each once, like rw";
    let other = text.chars().find(|c| !"rwm".contains(*c));
    if let Some(other) = other {
        return Err(format!("{text:?} has {other:?}; {REMEDY}"));
    }
    if text.is_empty() || "rwm".chars().any(|c| text.matches(c).count() > 1) {
        return Err(format!("{text:?} are no permissions; {REMEDY}"));
    }
    Ok(Permissions {
        read: text.contains('r'),
        write: text.contains('w'),
        mknod: text.contains('m'),
    })
}

/// The name of an environment variable.
pub(super) fn variable(name: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty() && name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Ok(());
    }
    let mut better: String = name
        .chars()
        .map(|c| if word(c) { c } else { '_' })
        .collect();
    if better.is_empty() || better.starts_with(|c: char| c.is_ascii_digit()) {
        better.insert(0, '_');
    }
    Err(format!(
        "{name:?} is no name of a variable: letters, digits and `_`, no digit first; write {better}"
    ))
}

/// The key of an annotation: `name`, or `domain/name`.
pub(super) fn annotation(key: &str) -> Result<(), String> {
    const SHAPE: &str = "write NAME or DOMAIN/NAME, like example.com/port";
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let word = |c: char| c.is_ascii_alphanumeric();
    let is_name = (1..=63).contains(&name.len())
        && name.chars().all(|c| word(c) || "-_.".contains(c))
        && name.starts_with(word)
        && name.ends_with(word);
    let is_domain = domain.is_none_or(|domain| {
        (1..=253).contains(&domain.len())
            && domain.split('.').all(|label| {
                let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                label.chars().all(|c| word(c) || c == '-')
                    && label.starts_with(word)
                    && label.ends_with(word)
            })
    });
    if domain == Some("cdi.k8s.io") {
        return Err(format!(
            "{key:?} is how older runtimes are told of CDI devices; write their names into give.cdi"
        ));
    }
    match is_name && is_domain {
        true => Ok(()),
        false => Err(format!("{key:?} is no key of an annotation; {SHAPE}")),
    }
}

/// `vendor/class`, of CDI.
pub(super) fn cdi_kind(text: &str) -> Result<(), String> {
    const SHAPE: &str = "write VENDOR/CLASS, like nvidia.com/gpu";
    if text.contains('=') {
        return Err(format!("{text:?} names one device, not a kind; {SHAPE}"));
    }
    let Some((vendor, class)) = text.split_once('/') else {
        return Err(format!("{text:?} is no kind of CDI devices; {SHAPE}"));
    };
    let shaped = |text: &str, inner: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || inner.contains(c))
    };
    match shaped(vendor, "_-.") && shaped(class, "_-") {
        true => Ok(()),
        false => Err(format!(
            "{text:?} is no kind of CDI devices: letters, digits, `-`, `_`, in the vendor also dots; {SHAPE}"
        )),
    }
}

/// `vendor/class=name`, of CDI.
pub(super) fn cdi_name(text: &str) -> Result<(), String> {
    const SHAPE: &str = "write VENDOR/CLASS=NAME, like vendor.com/gpu={id}";
    let Some((kind, name)) = text.split_once('=') else {
        return Err(format!("{text:?} is no name of a CDI device; {SHAPE}"));
    };
    cdi_kind(kind).map_err(|_| format!("{text:?} is no name of a CDI device; {SHAPE}"))?;
    let ends = |c: char| c.is_ascii_alphanumeric();
    match name.starts_with(ends)
        && name.ends_with(ends)
        && name.chars().all(|c| ends(c) || "_-.:".contains(c))
    {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is no name of a CDI device: letters, digits, `-`, `_`, `.`, `:`, with a letter or digit at both ends; {SHAPE}"
        )),
    }
}

/// An attribute of sysfs: `name`, or `folder/name`.
pub(super) fn attribute(name: &str) -> Result<(), String> {
    let parts: Vec<&str> = name.split('/').collect();
    if name.len() <= LONGEST_NAME
        && parts.iter().all(|part| !matches!(*part, "" | "." | ".."))
        && !is_pattern(name)
    {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no attribute in the device's folder of sysfs; write its name, like idProduct, or a path below, like queue/rotational"
    ))
}

/// A name without a path, as of a driver or a subsystem.
pub(super) fn word(text: &str) -> Result<(), String> {
    match text.contains('/') {
        true => Err(format!(
            "{text:?} is a path; write the name alone, {:?}",
            text.rsplit('/')
                .find(|part| !part.is_empty())
                .unwrap_or("tty")
        )),
        false => Ok(()),
    }
}
