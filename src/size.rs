//! Sizes of memory as people write them.

/// The text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size such as 6G, 1.5G or 800M")]
pub struct BadSize(String);

/// Bytes from a text such as `6G`, `1.5GiB` or `800M`: K, M and G are powers of 1024.
///
/// # Errors
/// If the text is none, or the size is not positive.
pub fn parse(text: &str) -> Result<u64, BadSize> {
    let lower = text.to_ascii_lowercase();
    let short = lower.trim_end_matches('b').trim_end_matches('i');
    let (number, shift) = match short.chars().last() {
        Some('k') => (&short[..short.len() - 1], 10),
        Some('m') => (&short[..short.len() - 1], 20),
        Some('g') => (&short[..short.len() - 1], 30),
        _ => (short, 0),
    };
    let number = number.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0 && *n < 1e15);
    // Below 2^80, and what is beyond u64 becomes its largest number.
    number.map(|number| (number * f64::from(1u32 << shift)) as u64).ok_or_else(|| BadSize(text.to_owned()))
}

/// Bytes as people read them.
pub fn text(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("6G", 6 << 30), ("1.5GiB", 3 << 29), ("800m", 800 << 20), ("4096", 4096), ("1 KB", 1024)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1G", "6T", "nan", "infG", "0"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_written() {
        assert_eq!((text(5 << 19), text(3 << 29)), ("2.5 MiB".into(), "1.50 GiB".into()));
    }
}
