//! Allocation units: `byte * 2^20`, `MegaBytes`, `byte*1024*1024` and all other spellings that are in use.
//!
//! DSP0004, "Programmatic Units", as OVF writers understood it. Each product has a grammar of its own; this one takes
//! all of them: factors with `*` between them, each a number, a power, or a word.

use formats::{Error, Result};

/// How many bytes one unit of `text` is.
///
/// # Errors
/// `Malformed` for what is no unit of bytes; `Limit` for more than 2^63.
pub fn byte_unit(text: &str) -> Result<u64> {
    let unknown =
        || Error::malformed("allocation units", "not a unit of bytes").found(format!("{text:?}"));
    let mut product: u64 = 1;
    for factor in text.split('*') {
        let value = factor_value(factor.trim()).ok_or_else(unknown)?;
        product = product
            .checked_mul(value)
            .filter(|p| *p > 0 && *p <= 1 << 63)
            .ok_or_else(|| {
                Error::limit("allocation units", "no size fits").found(format!("{text:?}"))
            })?;
    }
    Ok(product)
}

/// How many bytes `quantity` of `unit` are; without a unit, of `default` bytes each.
///
/// # Errors
/// `Malformed` for what is no number or no unit, `Limit` for what does not fit into 63 bits.
pub fn bytes(quantity: &str, unit: Option<&str>, default: u64) -> Result<u64> {
    let unit = match unit.map(str::trim) {
        None | Some("") => default,
        Some(unit) => byte_unit(unit)?,
    };
    number(quantity, "a quantity")?
        .checked_mul(unit)
        .filter(|b| *b <= i64::MAX as u64)
        .ok_or_else(|| {
            Error::limit("quantity", "more than 63 bits can say")
                .found(format!("{quantity} * {unit}"))
        })
}

/// A whole number without a sign.
///
/// # Errors
/// `Malformed` for anything else, a negative number too.
pub fn number(text: &str, what: &'static str) -> Result<u64> {
    let text = text.trim();
    let wrong = || {
        Error::malformed(what, "not a whole number that fits")
            .found(format!("{:?}", text.chars().take(40).collect::<String>()))
            .expected("0 to 18446744073709551615")
    };
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// The unit that says `bytes` in the fewest digits, and how many of it: `(64, "byte * 2^20")`. Not above GiB, which
/// some importers do not know, and MiB where whole GiB are not said.
pub fn spelled(bytes: u64) -> (u64, Option<&'static str>) {
    match bytes.is_multiple_of(1 << 20) {
        true => (bytes >> 20, Some("byte * 2^20")),
        false => (bytes, None),
    }
}

fn factor_value(factor: &str) -> Option<u64> {
    if let Some((base, exponent)) = factor.split_once('^') {
        let base: u64 = digits(base.trim())?;
        let exponent = u32::try_from(digits(exponent.trim())?).ok()?;
        return base.checked_pow(exponent);
    }
    digits(factor).or_else(|| word(factor))
}

fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

/// A word for a number of bytes. Every prefix is binary: that is what writers mean by it.
fn word(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let exponent = match lower.as_str() {
        "byte" | "bytes" | "b" => 0,
        "kb" | "kib" | "kilobyte" | "kilobytes" | "kibibyte" | "kibibytes" => 10,
        "mb" | "mib" | "megabyte" | "megabytes" | "mebibyte" | "mebibytes" => 20,
        "gb" | "gib" | "gigabyte" | "gigabytes" | "gibibyte" | "gibibytes" => 30,
        "tb" | "tib" | "terabyte" | "terabytes" | "tebibyte" | "tebibytes" => 40,
        _ => return None,
    };
    Some(1 << exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ErrorKind;

    #[test]
    fn every_spelling_in_use_is_understood() {
        for (text, bytes) in [
            ("byte", 1),
            ("bytes", 1),
            ("byte * 2^10", 1 << 10),
            ("byte * 2^20", 1 << 20),
            ("byte * 2 ^ 20", 1 << 20),
            ("byte*2^30", 1 << 30),
            ("byte*1024*1024", 1 << 20),
            ("MegaBytes", 1 << 20),
            ("MB", 1 << 20),
            ("GigaBytes", 1 << 30),
            ("gigabyte", 1 << 30),
            ("byte * 10^9", 1_000_000_000),
            ("byte * 2^40", 1 << 40),
            ("2^20", 1 << 20),
        ] {
            assert_eq!(byte_unit(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_unit_is_an_error() {
        for text in [
            "",
            "hertz * 10^6",
            "byte * 2^",
            "byte ** 2",
            "byte * -1",
            "nibble",
            "byte^2",
        ] {
            assert_eq!(
                byte_unit(text).unwrap_err().kind(),
                ErrorKind::Malformed,
                "{text}"
            );
        }
        for text in ["byte * 2^63 * 2", "byte * 0"] {
            assert_eq!(
                byte_unit(text).unwrap_err().kind(),
                ErrorKind::Limit,
                "{text}"
            );
        }
    }

    #[test]
    fn absurd_quantities_are_errors() {
        assert_eq!(bytes("64", Some("byte * 2^20"), 1).unwrap(), 64 << 20);
        for (quantity, kind) in [
            ("-1", ErrorKind::Malformed),
            ("1.5", ErrorKind::Malformed),
            ("", ErrorKind::Malformed),
            ("99999999999999999999", ErrorKind::Malformed),
            ("18446744073709551615", ErrorKind::Limit),
        ] {
            let error = bytes(quantity, Some("byte * 2^20"), 1).unwrap_err();
            assert_eq!(error.kind(), kind, "{quantity}");
        }
    }
}
