//! Values that are kept encrypted on disk. Start at [`Seal`]; [`AesGcm`] is the one that clusters use.
//!
//! Only the file is sealed: what is in memory, and what readers and watchers get, is plain, so that reading costs nothing.
use crate::Error;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Encrypts values on their way to disk.
pub trait Seal: Send + Sync {
    /// The sealed form of the value of `key`; `None`: it is kept as it is.
    fn seal(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// The value of `key` from its sealed form; `None`: `stored` is not sealed.
    fn open(&self, key: &[u8], stored: &[u8]) -> Result<Option<Vec<u8>>, Error>;
}

/// What sealed values begin with, as upstream's `aesgcm` provider writes it.
const PREFIX: &[u8] = b"k8s:enc:aesgcm:v1:pintle:";

/// AES-256-GCM over the values of some keys; the key of the value is authenticated with it, so that values cannot be
/// exchanged. Each value has a random nonce.
pub struct AesGcm {
    key: LessSafeKey,
    random: SystemRandom,
    prefixes: Vec<Vec<u8>>,
}

impl std::fmt::Debug for AesGcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AesGcm").finish_non_exhaustive()
    }
}

impl AesGcm {
    /// Seals the values of keys that begin with one of `prefixes`.
    pub fn new(secret: &[u8; 32], prefixes: &[&str]) -> Result<Self, Error> {
        let key = UnboundKey::new(&AES_256_GCM, secret).map_err(|_| refused("the encryption key cannot be used"))?;
        let prefixes = prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect();
        Ok(AesGcm { key: LessSafeKey::new(key), random: SystemRandom::new(), prefixes })
    }
}

impl Seal for AesGcm {
    fn seal(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if !self.prefixes.iter().any(|prefix| key.starts_with(prefix)) {
            return Ok(None);
        }
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| refused("the system has no random numbers"))?;
        let mut sealed = value.to_vec();
        let sealing = Nonce::assume_unique_for_key(nonce);
        let done = self.key.seal_in_place_append_tag(sealing, Aad::from(key), &mut sealed);
        done.map_err(|_| refused("a value cannot be encrypted"))?;
        Ok(Some([PREFIX, &nonce, &sealed].concat()))
    }

    fn open(&self, key: &[u8], stored: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some((nonce, sealed)) = stored.strip_prefix(PREFIX).and_then(|rest| rest.split_at_checked(NONCE_LEN))
        else {
            return Ok(None);
        };
        let wrong = || {
            let key = String::from_utf8_lossy(key);
            Error::Corrupt(format!(
                "{key} cannot be decrypted: it was written with another key than the cluster has now"
            ))
        };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let mut value = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(key), &mut value).map_err(|_| wrong())?.len();
        value.truncate(length);
        Ok(Some(value))
    }
}

fn refused(why: &str) -> Error {
    Error::Io(std::io::Error::other(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_sealed_for_their_key_and_old_ones_stay_readable() {
        let seal = AesGcm::new(&[7; 32], &["/registry/secrets/"]).unwrap();
        let sealed = seal.seal(b"/registry/secrets/a/b", b"hidden").unwrap().unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"hidden"));
        assert_ne!(seal.seal(b"/registry/secrets/a/b", b"hidden").unwrap().unwrap(), sealed);
        assert_eq!(seal.open(b"/registry/secrets/a/b", &sealed).unwrap().as_deref(), Some(&b"hidden"[..]));
        assert!(matches!(seal.open(b"/registry/secrets/a/c", &sealed), Err(Error::Corrupt(_))));
        assert_eq!(seal.open(b"/registry/secrets/a/b", b"{\"kind\":\"Secret\"}").unwrap(), None);
        assert_eq!(seal.seal(b"/registry/pods/a/b", b"plain").unwrap(), None);
        let other = AesGcm::new(&[8; 32], &["/registry/secrets/"]).unwrap();
        assert!(matches!(other.open(b"/registry/secrets/a/b", &sealed), Err(Error::Corrupt(_))));
    }
}
