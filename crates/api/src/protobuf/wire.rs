//! The wire format: varints, tags, and the two ends of a message.
use super::ProtobufError;

/// The value of a field as it is on the wire.
#[derive(Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::Malformed("wrong wireType for a field of bytes")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::Malformed("invalid UTF-8 in a string"))
    }

    pub(super) fn varint(self) -> Result<u64, ProtobufError> {
        match self {
            Wire::Varint(n) => Ok(n),
            _ => Err(ProtobufError::Malformed("wrong wireType for a number")),
        }
    }

    pub(super) fn double(self) -> Result<f64, ProtobufError> {
        match self {
            Wire::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Wire::Fixed32(bits) => Ok(f64::from(f32::from_bits(bits))),
            _ => Err(ProtobufError::Malformed("wrong wireType for a double")),
        }
    }
}

/// The fields of a message, one by one.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Reader { rest: message }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], ProtobufError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(ProtobufError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>), ProtobufError> {
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::Malformed("illegal tag"))?;
        if number == 0 {
            return Err(ProtobufError::Malformed("illegal tag 0"));
        }
        let value = match tag & 7 {
            0 => Wire::Varint(varint(&mut self.rest)?),
            1 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(self.take(8)?);
                Wire::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let len = usize::try_from(varint(&mut self.rest)?).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(len)?)
            }
            5 => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.take(4)?);
                Wire::Fixed32(u32::from_le_bytes(bytes))
            }
            _ => return Err(ProtobufError::Malformed("illegal wireType")),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Takes a varint from the front of `bytes`.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(ProtobufError::Truncated)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtobufError::Malformed("integer overflow"))
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a field of bytes.
pub(super) fn field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message of fields of bytes.
pub(super) fn fields(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.iter().map(|(_, bytes)| bytes.len() + 8).sum());
    for (number, bytes) in fields {
        field(&mut out, *number, bytes);
    }
    out
}

/// A message written from its end to its beginning, so that the length of what is inside is known when its tag is written.
pub(super) struct Writer {
    buffer: Vec<u8>,
    /// Where the message begins in `buffer`.
    start: usize,
}

impl Writer {
    pub(super) fn new() -> Self {
        Writer { buffer: vec![0; 1024], start: 1024 }
    }

    /// How many bytes are written.
    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.buffer.drain(..self.start);
        self.buffer
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if self.start < bytes.len() {
            let (used, more) = (self.len(), (self.buffer.len() + bytes.len()).next_power_of_two());
            let mut bigger = vec![0; more];
            bigger[more - used..].copy_from_slice(&self.buffer[self.start..]);
            self.buffer = bigger;
            self.start = more - used;
        }
        let start = self.start - bytes.len();
        self.buffer[start..self.start].copy_from_slice(bytes);
        self.start = start;
    }

    pub(super) fn varint(&mut self, mut n: u64) {
        let (mut text, mut len) = ([0; 10], 0);
        loop {
            let more = n >= 0x80;
            text[len] = (n & 0x7f) as u8 | if more { 0x80 } else { 0 };
            len += 1;
            n >>= 7;
            if !more {
                break;
            }
        }
        self.bytes(&text[..len]);
    }

    pub(super) fn tag(&mut self, number: u32, wire_type: u64) {
        self.varint(u64::from(number) << 3 | wire_type);
    }

    pub(super) fn varint_field(&mut self, number: u32, n: u64) {
        self.varint(n);
        self.tag(number, 0);
    }

    pub(super) fn bytes_field(&mut self, number: u32, bytes: &[u8]) {
        self.bytes(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, 2);
    }

    /// A field around what `inside` writes.
    pub(super) fn message_field(&mut self, number: u32, inside: impl FnOnce(&mut Self)) {
        let before = self.len();
        inside(self);
        self.varint((self.len() - before) as u64);
        self.tag(number, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_survive() {
        for n in [0, 1, 127, 128, 300, u64::MAX] {
            let mut writer = Writer::new();
            writer.varint(n);
            let bytes = writer.finish();
            assert_eq!(varint(&mut bytes.as_slice()), Ok(n));
        }
        assert!(varint(&mut &[0xff; 11][..]).is_err());
    }

    #[test]
    fn the_writer_grows_from_its_end() {
        let mut writer = Writer::new();
        let long = vec![7; 3000];
        writer.bytes(b"end");
        writer.bytes_field(1, &long);
        let bytes = writer.finish();
        assert!(bytes.ends_with(b"end") && bytes.len() == 3006 && bytes[0] == 0x0a);
    }
}
