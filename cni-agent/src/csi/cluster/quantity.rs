//! PURE: amounts of bytes as Kubernetes writes them (`10Gi`, `1.5G`, `1e9`, `500m`).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Suffixes with the power of two or of ten that they mean.
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];
const DECIMAL: [(&str, i32); 9] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
/// More digits than any amount has that fits.
const MOST_DIGITS: usize = 36;

/// The bytes of an amount, rounded up; none: it is no amount, or negative, or too much.
pub(super) fn bytes(of: &Quantity) -> Option<i64> {
    let text = of.0.trim();
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() || part.contains('.') {
        return None;
    }
    let part = part.trim_end_matches('0');
    let digits = format!("{whole}{part}");
    let digits = digits.trim_start_matches('0');
    if digits.len() > MOST_DIGITS {
        return None;
    }
    let value: i128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let (two, ten) = power(suffix)?;
    let ten = ten.checked_sub(i32::try_from(part.len()).ok()?)?;
    let scaled = value.checked_mul(1_i128.checked_shl(two)?)?;
    let power = 10_i128.checked_pow(ten.unsigned_abs());
    let amount = match (ten < 0, power) {
        (false, Some(power)) => scaled.checked_mul(power)?,
        (false, None) if scaled == 0 => 0,
        (false, None) => return None,
        // Rounded up, as Kubernetes does.
        (true, Some(power)) => scaled / power + i128::from(scaled % power != 0),
        (true, None) => i128::from(scaled != 0),
    };
    i64::try_from(amount).ok()
}

fn power(suffix: &str) -> Option<(u32, i32)> {
    if suffix.is_empty() {
        return Some((0, 0));
    }
    if let Some((_, two)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((*two, 0));
    }
    if let Some((_, ten)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((0, *ten));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let ten: i32 = exponent.parse().ok()?;
    (ten.abs() <= 30).then_some((0, ten))
}

/// As people read it: with the largest suffix of which it is a multiple.
pub(super) fn quantity(bytes: i64) -> Quantity {
    let mut written = bytes.to_string();
    for (suffix, two) in BINARY {
        if bytes != 0 && bytes % (1 << two) == 0 {
            written = format!("{}{suffix}", bytes >> two);
        }
    }
    Quantity(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("1G", Some(1_000_000_000)),
            ("1e9", Some(1_000_000_000)),
            ("1E3", Some(1000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("500m", Some(1)),
            ("1500m", Some(2)),
            ("1n", Some(1)),
            (".5Ki", Some(512)),
            ("0.1Ki", Some(103)),
            ("12e-1", Some(2)),
            ("+4Ki", Some(4096)),
            ("7Ei", Some(7 << 60)),
            ("8Ei", None),
            ("-1", None),
            ("1.2.3", None),
            ("", None),
            ("Gi", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1e99", None),
        ] {
            assert_eq!(bytes(&Quantity(text.into())), expected, "{text:?}");
        }
    }

    #[test]
    fn amounts_are_written_short() {
        for (bytes, text) in [
            (0, "0"),
            (1 << 30, "1Gi"),
            (3 << 29, "1536Mi"),
            (1000, "1000"),
            (4097, "4097"),
        ] {
            assert_eq!(quantity(bytes).0, text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(amount in 0_i64..) {
            prop_assert_eq!(bytes(&quantity(amount)), Some(amount));
        }
    }
}
