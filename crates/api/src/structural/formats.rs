//! The string formats of schemas, as kube-openapi's `strfmt` judges them.
use std::{net::IpAddr, sync::LazyLock};

use base64::{Engine, prelude::BASE64_STANDARD};
use regex::Regex;

use crate::names;

/// Whether a schema of this type and format is judged by the format.
// upstream: apiextensions-apiserver pkg/apiserver/validation/formats.go
pub(super) fn is_known(type_: &str, format: &str) -> bool {
    match type_ {
        "" | "string" => check_of(format).is_some(),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// The format of a schema if nothing judges by it: a warning says so.
pub fn unrecognized<'a>(type_: &str, format: &'a str) -> Option<&'a str> {
    (!format.is_empty() && !is_known(type_, format)).then_some(format)
}

type Check = fn(&str) -> bool;

/// Whether `text` is of the string format `format`; formats that nobody knows allow everything.
pub(super) fn is_valid(format: &str, text: &str) -> bool {
    check_of(format).is_none_or(|check| check(text))
}

macro_rules! pattern {
    ($pattern:expr) => {
        |text| {
            static REGEX: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($pattern).ok());
            REGEX.as_ref().is_none_or(|regex| regex.is_match(text))
        }
    };
}

fn check_of(format: &str) -> Option<Check> {
    Some(match format.replace('-', "").as_str() {
        "bsonobjectid" => pattern!("^[0-9a-fA-F]{24}$"),
        "uri" => is_uri,
        "email" => is_email,
        "hostname" => is_hostname,
        "ipv4" => |text| text.contains('.') && text.parse::<IpAddr>().is_ok(),
        "ipv6" => |text| text.contains(':') && text.parse::<IpAddr>().is_ok(),
        "cidr" => |text| text.parse::<ipnet_form::Cidr>().is_ok(),
        "mac" => is_mac,
        "uuid" => pattern!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        "uuid3" => pattern!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        "uuid4" => pattern!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        "uuid5" => pattern!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        "isbn" => |text| is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10,
        "isbn13" => is_isbn13,
        "creditcard" => is_credit_card,
        "ssn" => pattern!("^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"),
        "hexcolor" => pattern!("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        "rgbcolor" => pattern!(concat!(
            r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])",
            r"\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$"
        )),
        "byte" => |text| !text.is_empty() && BASE64_STANDARD.decode(text).is_ok(),
        "password" => |_| true,
        "date" => is_date,
        "duration" => is_duration,
        "datetime" => is_date_time,
        "k8sshortname" => |text| names::dns1123_label(text).is_empty(),
        "k8slongname" => |text| names::dns1123_subdomain(text).is_empty(),
        _ => return None,
    })
}

/// Networks in CIDR form.
mod ipnet_form {
    use std::{net::IpAddr, str::FromStr};

    pub(super) struct Cidr;

    impl FromStr for Cidr {
        type Err = ();

        fn from_str(text: &str) -> Result<Cidr, ()> {
            let (address, bits) = text.split_once('/').ok_or(())?;
            let address: IpAddr = address.parse().map_err(|_| ())?;
            let bits: u8 = bits.parse().map_err(|_| ())?;
            if bits <= if address.is_ipv4() { 32 } else { 128 } { Ok(Cidr) } else { Err(()) }
        }
    }
}

/// As Go's `url.ParseRequestURI`: a path, or an absolute URI.
fn is_uri(text: &str) -> bool {
    if text.starts_with('/') {
        return text.parse::<http::Uri>().is_ok();
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    scheme_ok && !rest.is_empty() && !rest.contains(|c: char| c.is_ascii_control() || c == ' ')
}

fn is_email(text: &str) -> bool {
    let address = match text.split_once('<') {
        Some((_, rest)) => rest.strip_suffix('>').unwrap_or_default(),
        None => text.trim(),
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let dots = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    let local_ok = quoted || (!local.is_empty() && dots(local) && local.bytes().all(atom));
    local_ok && !domain.is_empty() && dots(domain) && domain.bytes().all(atom)
}

fn is_hostname(text: &str) -> bool {
    let label = |part: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b >= 0x80;
        part.len() <= 63
            && !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(inner)
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == width && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits_of(text);
    let values: Option<Vec<u32>> =
        text.chars().enumerate().map(|(i, c)| if i == 9 && c == 'X' { Some(10) } else { c.to_digit(10) }).collect();
    values.is_some_and(|v| v.len() == 10 && v.iter().zip(1..).map(|(d, i)| d * i).sum::<u32>().is_multiple_of(11))
}

fn is_isbn13(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits_of(text).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| {
        v.len() == 13
            && v.iter().zip([1, 3].iter().cycle()).map(|(d, weight)| d * weight).sum::<u32>().is_multiple_of(10)
    })
}

/// A number of a known issuer's form whose check digit is right.
fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let luhn: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| match i % 2 {
            0 => *d,
            _ => d * 2 / 10 + d * 2 % 10,
        })
        .sum();
    (13..=19).contains(&digits.len()) && luhn.is_multiple_of(10)
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let Some((date, time)) = text.split_once('t') else { return false };
    let form: Check = pattern!("^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$");
    is_date(date) && form(time)
}

/// As Go's `time.ParseDuration`, or numbers with units in words.
fn is_duration(text: &str) -> bool {
    let go: Check = pattern!(r"^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$");
    let words: Check =
        pattern!(r"(?i)[0-9]+\s*(ns|nano|us|µs|micro|ms|milli|s\b|sec|m\b|min|h\b|hr|hour|d\b|day|w\b|wk|week)");
    go(text) || words(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_judged_as_upstream_does() {
        for (format, good, bad) in [
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15"),
            ("date", "2006-01-02", "2006-13-02"),
            ("duration", "1h30m", "soon"),
            ("ipv4", "10.0.0.1", "fd00::1"),
            ("ipv6", "fd00::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "x"),
            ("uri", "https://a.b/c", "a b"),
            ("email", "a@b.c", "a"),
            ("hostname", "a.example.com", "-a"),
            ("byte", "YQ==", "?"),
            ("byte", "YWI=", ""),
            ("isbn", "0321751043", "0321751044"),
            ("k8s-short-name", "a-b", "A"),
        ] {
            assert!(is_valid(format, good) && !is_valid(format, bad), "{format}");
        }
        assert!(is_valid("nobody-knows", "x"));
        assert_eq!(unrecognized("string", "nobody-knows"), Some("nobody-knows"));
        assert_eq!((unrecognized("integer", "int32"), unrecognized("integer", "date")), (None, Some("date")));
    }
}
