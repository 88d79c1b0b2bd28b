//! Error texts as Go's standard library writes them.
use crate::field::go_quote;

/// The complaint of `time.Parse`, as far as clients' mistakes go: the first part that does not fit the layout.
pub(super) fn time_error(value: &str, micro: bool) -> String {
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let parts: [(&str, usize, u32, u32); 11] = [
        ("2006", 4, 0, 9999),
        ("-", 1, 0, 0),
        ("01", 2, 1, 12),
        ("-", 1, 0, 0),
        ("02", 2, 1, 31),
        ("T", 1, 0, 0),
        ("15", 2, 0, 23),
        (":", 1, 0, 0),
        ("04", 2, 0, 59),
        (":", 1, 0, 0),
        ("05", 2, 0, 59),
    ];
    let (quoted, shown) = (go_quote(value), go_quote(layout));
    let mut rest = value;
    for (part, len, _, max) in parts {
        let (head, tail) = rest.split_at_checked(len).unwrap_or((rest, ""));
        let literal = part.len() == 1;
        let fits = if literal { head == part } else { head.len() == len && head.bytes().all(|b| b.is_ascii_digit()) };
        if !fits {
            return format!("parsing time {quoted} as {shown}: cannot parse {} as {}", go_quote(rest), go_quote(part));
        }
        if !literal && head.parse::<u32>().is_ok_and(|n| n > max) {
            let what = match part {
                "01" => "month",
                "02" => "day",
                "15" => "hour",
                "04" => "minute",
                _ => "second",
            };
            return format!("parsing time {quoted}: {what} out of range");
        }
        rest = tail;
    }
    format!("parsing time {quoted} as {shown}: cannot parse {} as \"Z07:00\"", go_quote(rest))
}

/// The complaint of `base64.StdEncoding`.
pub(super) fn base64_error(text: &str, error: &base64::DecodeError) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len() / 4 * 4,
    };
    format!("illegal base64 data at input byte {at}")
}

/// The complaint of `encoding/json` about text that is no JSON.
pub(super) fn malformed(json: &[u8]) -> Option<String> {
    Scanner { json, at: 0 }.document().err()
}

/// Text that Go takes for JSON although it is none, with the unknown character where Go reads it: for halves of surrogate
/// pairs and bytes that are no UTF-8.
pub(super) fn mended(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    let unit = |text: &[u8]| match text {
        [b'\\', b'u', hex @ ..] => {
            let digits = std::str::from_utf8(hex.get(..4)?).ok()?;
            u16::from_str_radix(digits, 16).ok()
        }
        _ => None,
    };
    while let [first, tail @ ..] = rest {
        let (taken, bytes): (usize, &[u8]) = match (first, unit(rest)) {
            (b'\\', None) => (2, rest.get(..2).unwrap_or(rest)),
            (_, Some(0xd800..=0xdbff)) if matches!(rest.get(6..).and_then(unit), Some(0xdc00..=0xdfff)) => {
                (12, &rest[..12])
            }
            (_, Some(0xd800..=0xdfff)) => (6, b"\\ufffd"),
            _ => (1, std::slice::from_ref(first)),
        };
        out.extend_from_slice(bytes);
        rest = tail.get(taken - 1..).unwrap_or_default();
    }
    String::from_utf8_lossy(&out).into_owned().into_bytes()
}

/// Follows the grammar of JSON far enough to say where it breaks.
struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
}

type Scan = Result<(), String>;

impl Scanner<'_> {
    fn peek(&mut self) -> Result<u8, String> {
        while self.json.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.raw()
    }

    fn raw(&self) -> Result<u8, String> {
        self.json.get(self.at).copied().ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    fn invalid(&self, context: &str) -> Scan {
        // Go shows the byte, as if it were a character.
        let c = match self.json.get(self.at).map(|byte| char::from(*byte)) {
            Some('\'') => "'\\''".to_owned(),
            Some('"') => "'\"'".to_owned(),
            Some(c) => {
                let quoted = go_quote(c.encode_utf8(&mut [0; 4]));
                format!("'{}'", quoted.trim_matches('"'))
            }
            None => String::new(),
        };
        Err(format!("invalid character {c} {context}"))
    }

    fn document(&mut self) -> Scan {
        self.value(0)?;
        match self.peek() {
            Ok(_) => self.invalid("after top-level value"),
            Err(_) => Ok(()),
        }
    }

    fn value(&mut self, depth: usize) -> Scan {
        if depth > 10_000 {
            return Err("exceeded max depth".into());
        }
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.invalid("looking for beginning of value"),
        }
    }

    fn object(&mut self, depth: usize) -> Scan {
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek()? != b'"' {
                return self.invalid("looking for beginning of object key string");
            }
            self.string()?;
            if self.peek()? != b':' {
                return self.invalid("after object key");
            }
            self.at += 1;
            self.value(depth + 1)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.invalid("after object key:value pair"),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Scan {
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.invalid("after array element"),
            }
        }
    }

    fn string(&mut self) -> Scan {
        self.at += 1;
        loop {
            match self.raw()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.raw()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            for _ in 0..4 {
                                self.at += 1;
                                if !self.raw()?.is_ascii_hexdigit() {
                                    return self.invalid("in \\u hexadecimal character escape");
                                }
                            }
                            self.at += 1;
                        }
                        _ => return self.invalid("in string escape code"),
                    }
                }
                b if b < 0x20 => return self.invalid("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn literal(&mut self, word: &str) -> Scan {
        for expected in word.bytes() {
            if self.raw()? != expected {
                return self.invalid(&format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Scan {
        if self.raw()? == b'-' {
            self.at += 1;
            if !self.raw()?.is_ascii_digit() {
                return self.invalid("in numeric literal");
            }
        }
        if self.raw()? == b'0' {
            self.at += 1;
        } else {
            self.digits();
        }
        if self.json.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.raw()?.is_ascii_digit() {
                return self.invalid("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.json.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.raw()?, b'+' | b'-') {
                self.at += 1;
            }
            if !self.raw()?.is_ascii_digit() {
                return self.invalid("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.json.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}
