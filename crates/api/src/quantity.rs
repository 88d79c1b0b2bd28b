//! Exact `resource.Quantity`: parse, compare, compute, print in canonical form. Start at [`Quantity`].
use std::{borrow::Cow, cmp::Ordering, fmt};

/// Why a string is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The string is not made as a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The part before the suffix is no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// There is no such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The family of suffixes in which a quantity was written and is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12M`: powers of 1,000.
    #[default]
    DecimalSi,
    /// `12Mi`: powers of 1,024.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// An amount in billionths. Amounts beyond ±1.7e29 saturate; upstream knows larger ones, no resource does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
/// Amounts with binary suffixes are capped here.
const MAX_BINARY: i128 = i64::MAX as i128 * NANO;
const DECIMAL_SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The parts of a quantity's text.
struct Parts<'a> {
    negative: bool,
    /// The digits before the point, without leading zeros.
    integer: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

/// A suffix: `10^exponent`, or `2^exponent` for binary ones.
fn interpret(suffix: &str) -> Option<(Format, i32)> {
    if let Some(i) = DECIMAL_SUFFIXES.iter().position(|s| *s == suffix) {
        return Some((Format::DecimalSi, i as i32 * 3 - 9));
    }
    if let Some(i) = BINARY_SUFFIXES.iter().skip(1).position(|s| *s == suffix) {
        return Some((Format::BinarySi, (i as i32 + 1) * 10));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
    Some((Format::DecimalExponent, exponent.clamp(-1_000, 1_000) as i32))
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |s: &str| s.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(s.len());
    let (integer, mut rest) = unsigned.split_at(digits(unsigned));
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        (fraction, rest) = after.split_at(digits(after));
    }
    let suffix = rest;
    let letters = rest.bytes().position(|b| !b"eEinumkKMGTP".contains(&b)).unwrap_or(rest.len());
    let exponent = &rest[letters..];
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if !exponent.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    if integer.is_empty() && fraction.is_empty() && !suffix.is_empty() {
        return Err(QuantityError::Numeric);
    }
    Ok(Parts { negative, integer: integer.trim_start_matches('0'), fraction, suffix })
}

/// `digits × 10^(point − digits.len())` in billionths, rounded away from zero.
fn decimal_nanos(integer: &str, fraction: &str, exponent: i32) -> i128 {
    let digits = integer.bytes().chain(fraction.bytes());
    let wanted = integer.len() as i64 + i64::from(exponent) + 9;
    let (mut nanos, mut taken, mut inexact) = (0i128, 0i64, false);
    for digit in digits {
        if taken < wanted {
            nanos = nanos.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
        } else {
            inexact |= digit != b'0';
        }
        taken += 1;
    }
    if nanos != 0 {
        for _ in taken..wanted {
            nanos = nanos.saturating_mul(10);
        }
    }
    nanos.saturating_add(i128::from(inexact))
}

/// `integer.fraction × 2^shift` in billionths, rounded away from zero and capped.
fn binary_nanos(integer: &str, fraction: &str, shift: i32) -> i128 {
    let parse = |s: &str| s.bytes().try_fold(0i128, |n, b| n.checked_mul(10)?.checked_add(i128::from(b - b'0')));
    let whole = parse(integer).unwrap_or(i128::MAX);
    let mut nanos = whole.saturating_mul(1 << shift).saturating_mul(NANO);
    // 19 digits of the fraction are exact enough: what follows is far below a billionth of the smallest unit.
    let (head, tail) = fraction.split_at(fraction.len().min(19));
    let scale = 10i128.pow(head.len() as u32);
    let shifted = parse(head).unwrap_or(0) << shift;
    let (quotient, remainder) = (shifted / scale, shifted % scale);
    let exact = (remainder * NANO) % scale == 0 && tail.bytes().all(|b| b == b'0');
    let below = (remainder * NANO) / scale + i128::from(!exact);
    nanos = nanos.saturating_add(quotient.saturating_mul(NANO)).saturating_add(below);
    nanos.min(MAX_BINARY)
}

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Parses `100m`, `1.5Gi`, `12e6`.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        Ok(Self::parse_and_note(text)?.0)
    }

    /// The quantity, and whether upstream keeps the text as it is written.
    fn parse_and_note(text: &str) -> Result<(Quantity, bool), QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let Parts { negative, integer, fraction, suffix } = split(text)?;
        let (mut format, exponent) = interpret(suffix).ok_or(QuantityError::Suffix)?;
        let nanos = match format {
            Format::BinarySi => binary_nanos(integer, fraction, exponent),
            Format::DecimalSi | Format::DecimalExponent => decimal_nanos(integer, fraction, exponent),
        };
        // upstream: ParseQuantity's fast path, which remembers texts that it takes for canonical
        let num_len = integer.len().max(1);
        let keeps = match format {
            Format::BinarySi => {
                let precision = 15 - num_len as i32 - (exponent as f32 * 3.0 / 10.0) as i32 - 1;
                fraction.is_empty() && precision >= 0 && integer.parse::<i64>().is_ok_and(|v| v & 7 != 0)
            }
            Format::DecimalSi | Format::DecimalExponent => {
                let scale = exponent - fraction.len() as i32;
                let few_digits = num_len + fraction.len() <= 18;
                let ends_in_zeros = if fraction.len() >= 3 {
                    fraction.ends_with("000")
                } else {
                    format!("{integer}{fraction}").ends_with("000")
                };
                few_digits && scale >= -9 && scale % 3 == 0 && !ends_in_zeros && !integer.is_empty()
            }
        };
        if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        Ok((Quantity { nanos: if negative { -nanos } else { nanos }, format }, keeps))
    }

    /// The text under which upstream serves a quantity that a client wrote as `text`: canonical, or as written where
    /// upstream takes it to be so already (`1500m`).
    pub fn normalize(text: &str) -> Result<Cow<'_, str>, QuantityError> {
        let text = text.trim();
        let (quantity, keeps) = Self::parse_and_note(text)?;
        Ok(if keeps || text == "0" { Cow::Borrowed(text) } else { Cow::Owned(quantity.to_string()) })
    }

    /// From the value of a JSON object: a string or a number.
    pub fn from_value(value: &serde_json::Value) -> Result<Quantity, QuantityError> {
        match value {
            serde_json::Value::String(s) => Quantity::parse(s.trim()),
            serde_json::Value::Number(n) => Quantity::parse(&n.to_string()),
            serde_json::Value::Null => Ok(Quantity::ZERO),
            _ => Err(QuantityError::Format),
        }
    }

    /// A whole amount.
    pub const fn from_int(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * NANO, format }
    }

    /// An amount in thousandths.
    pub const fn from_milli(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * (NANO / 1000), format }
    }

    /// The family of suffixes in which the quantity is printed.
    pub const fn format(self) -> Format {
        self.format
    }

    fn rounded_up(self, unit: i128) -> i64 {
        let up = (self.nanos.abs() + unit - 1) / unit;
        i64::try_from(up * self.nanos.signum()).unwrap_or(if self.nanos < 0 { i64::MIN } else { i64::MAX })
    }

    /// The amount as a whole number, fractions rounded away from zero.
    pub fn value(self) -> i64 {
        self.rounded_up(NANO)
    }

    /// The amount in thousandths, fractions rounded away from zero.
    pub fn milli_value(self) -> i64 {
        self.rounded_up(NANO / 1000)
    }

    /// The amount, if it is a whole number.
    pub fn as_i64(self) -> Option<i64> {
        if self.nanos % NANO == 0 { i64::try_from(self.nanos / NANO).ok() } else { None }
    }

    /// The amount, approximately.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether the amount is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// −1, 0 or 1.
    pub fn sign(self) -> i32 {
        self.nanos.signum() as i32
    }
}

/// Sums take the format of the left side, or of the right one if the left is zero.
impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl std::ops::Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: -self.nanos, ..self }
    }
}

/// Quantities are equal if their amounts are.
impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(text)
    }
}

/// The canonical form: no fraction, the largest suffix that keeps it exact.
// upstream: Quantity.CanonicalizeBytes
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANO && self.nanos % NANO == 0;
        if binary {
            let (mut mantissa, mut i) = (self.nanos / NANO, 0);
            while mantissa % 1024 == 0 && i < BINARY_SUFFIXES.len() - 1 {
                mantissa /= 1024;
                i += 1;
            }
            return write!(f, "{mantissa}{}", BINARY_SUFFIXES[i]);
        }
        let (mut mantissa, mut i) = (self.nanos, 0);
        while mantissa % 1000 == 0 && (self.format == Format::DecimalExponent || i < DECIMAL_SUFFIXES.len() - 1) {
            mantissa /= 1000;
            i += 1;
        }
        match (self.format, i as i32 * 3 - 9) {
            (Format::DecimalExponent, 0) => write!(f, "{mantissa}"),
            (Format::DecimalExponent, exponent) => write!(f, "{mantissa}e{exponent}"),
            _ => write!(f, "{mantissa}{}", DECIMAL_SUFFIXES[i]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, canonical) in [
            ("0", "0"),
            ("0n", "0"),
            ("0Mi", "0"),
            ("100m", "100m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1000k", "1M"),
            ("12e3", "12e3"),
            ("12000e3", "12e6"),
            ("1e0", "1"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("100Ei", "9223372036854775807"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("-1.5Gi", "-1536Mi"),
            ("1000000000000000000000", "1000E"),
            ("9999999999999999999", "9999999999999999999"),
            ("+5", "5"),
            ("1E3", "1e3"),
            ("500Mi", "500Mi"),
            ("0.0000001Ki", "102400n"),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn texts_that_upstream_takes_for_canonical_stay() {
        for (text, kept) in [
            ("12.345", "12.345"),
            ("1500m", "1500m"),
            ("+5", "+5"),
            ("1001Ki", "1001Ki"),
            ("1024Ki", "1Mi"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("1E3", "1E3"),
            ("0", "0"),
        ] {
            assert_eq!(Quantity::normalize(text).as_deref(), Ok(kept), "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused_with_upstreams_errors() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1mm", QuantityError::Suffix),
            ("1ki", QuantityError::Suffix),
            ("Mi", QuantityError::Numeric),
            ("1e", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn values_round_away_from_zero() {
        let q = |t: &str| Quantity::parse(t).unwrap();
        assert_eq!((q("1500m").value(), q("-1500m").value(), q("1n").milli_value()), (2, -2, 1));
        assert_eq!((q("1500m").as_i64(), q("2").as_i64(), q("2Ki").as_i64()), (None, Some(2), Some(2048)));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + q("512Mi")).to_string(), "512Mi");
        assert!(q("1") > q("999m") && q("1Ki") == q("1024") && (q("1") - q("2")).sign() == -1);
    }
}
