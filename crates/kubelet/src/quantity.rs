//! Quantities as integers: the thousandths that CPU is counted in, the bytes that memory is.

/// `text` in thousandths, rounded up; `None` when it is not a quantity.
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (10i128.pow(9), 1),
        "G" => (10i128.pow(12), 1),
        "T" => (10i128.pow(15), 1),
        "P" => (10i128.pow(18), 1),
        "E" => (10i128.pow(21), 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power_of = |power: i32| 10i128.checked_pow(power.unsigned_abs());
            if power >= 0 { (power_of(power)?.checked_mul(1_000)?, 1) } else { (1_000, power_of(power)?) }
        }
    };
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let denominator = denominator.checked_mul(scale)?;
    let value = digits.checked_mul(numerator)?.checked_add(denominator - 1)?.div_euclid(denominator);
    Some(if negative { -value } else { value })
}

/// `text` in whole units, rounded up; `None` when it is not a quantity or does not fit.
pub fn value(text: &str) -> Option<i64> {
    i64::try_from((milli(text)? + 999).div_euclid(1000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_integers() {
        for (text, expected) in
            [("1", 1000), ("100m", 100), ("1.5", 1500), ("64Mi", 64 << 20), ("1e3", 1_000_000), ("500u", 1), ("0", 0)]
        {
            let expected = if text == "64Mi" { expected * 1000 } else { expected };
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        assert_eq!(value("1.5Gi"), Some(1536 << 20));
        assert_eq!(value("1500m"), Some(2));
        assert_eq!(milli("abc"), None);
        assert_eq!(milli(""), None);
    }
}
