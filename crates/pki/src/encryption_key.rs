//! The key with which Secrets are encrypted on disk.
use crate::Error;
use crate::files::{self, unusable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use std::path::Path;

/// 256 random bits.
#[derive(Clone)]
pub struct EncryptionKey([u8; 32]);

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncryptionKey")
    }
}

impl EncryptionKey {
    /// Reads the key from `path` (base64), or makes one and writes it there.
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(text) = files::read(path)? {
            let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
            return bytes.map(EncryptionKey).ok_or_else(|| unusable(path, "it holds no key of 32 bytes"));
        }
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| unusable(path, "the system has no random numbers"))?;
        files::write(path, &format!("{}\n", STANDARD.encode(key)))?;
        Ok(EncryptionKey(key))
    }

    /// The key itself.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_a_damaged_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("encryption.key");
        let key = EncryptionKey::open_or_create(&path).unwrap();
        assert_eq!(EncryptionKey::open_or_create(&path).unwrap().bytes(), key.bytes());
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(EncryptionKey::open_or_create(&path), Err(Error::Unusable { .. })));
    }
}
