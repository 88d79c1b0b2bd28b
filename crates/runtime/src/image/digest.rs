//! SHA-256 digests of what flows through a reader.
use std::io::{self, Read};

use ring::digest::{Context, SHA256, digest};

/// The digest of bytes: `sha256:…`.
pub fn of(bytes: &[u8]) -> String {
    text(digest(&SHA256, bytes).as_ref())
}

fn text(hash: &[u8]) -> String {
    format!("sha256:{}", hex(hash))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// A reader that computes the digest of all that was read.
pub struct Hashing<R> {
    inner: R,
    context: Context,
    count: u64,
}

impl<R: Read> Hashing<R> {
    /// Starts with nothing read.
    pub fn new(inner: R) -> Self {
        Self { inner, context: Context::new(&SHA256), count: 0 }
    }

    /// Reads what is left; returns the digest and the number of bytes.
    pub fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((text(self.context.finish().as_ref()), self.count))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_covers_what_nobody_read() {
        let mut reader = Hashing::new(&b"abc"[..]);
        reader.read_exact(&mut [0]).unwrap();
        let (digest, count) = reader.finish().unwrap();
        assert_eq!(digest, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((digest, count), (of(b"abc"), 3));
    }
}
