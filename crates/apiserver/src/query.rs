//! The query string of a request, decoded.

/// Decoded query parameters in their order; [`Query::get`] answers the first of a name, as Go's `url.Values.Get`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `raw`, the part of a URI after `?`.
    pub fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Query(pairs.collect())
    }

    /// The first value of `name`; `None` when the parameter is absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value of `name`, empty when the parameter is absent.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Whether `name` is given and means true, as upstream's query decoding reads booleans: anything but `false` and `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }
}

/// Decodes `%xx` (and `+` in query strings); malformed escapes stay as they are, invalid UTF-8 is replaced.
pub fn decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| Some(hex_digit(hex[0])? << 4 | hex_digit(hex[1])?));
        match (bytes[at], escape) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A key as it may stand in the name of a header: bytes that may not are escaped.
// upstream: client-go transport, headerKeyEscape
pub fn encode_header_key(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_first_of_a_name_counts() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ctier+in&limit=5&limit=6&watch");
        assert_eq!(query.get("labelSelector"), Some("app=web,tier in"));
        assert_eq!(query.get("limit"), Some("5"));
        assert_eq!(query.all("limit").collect::<Vec<_>>(), ["5", "6"]);
        assert!(query.flag("watch") && !query.flag("pretty"));
    }

    #[test]
    fn malformed_escapes_stay_as_they_are() {
        assert_eq!(decode("100%", false), "100%");
        assert_eq!(decode("%zz%2", false), "%zz%2");
        assert_eq!(decode("%ff", false), "\u{fffd}");
    }
}
