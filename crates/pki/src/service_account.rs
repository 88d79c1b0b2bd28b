//! The key that signs service-account tokens: ECDSA on P-256, published by the API server as a JSON web key.
use crate::authority::key_from_pem;
use crate::files;
use crate::{Error, files::unusable};
use rcgen::{KeyPair, PublicKeyData};
use std::path::Path;

/// The signing key of service-account tokens (JWT algorithm ES256).
#[derive(Clone, Debug)]
pub struct ServiceAccountKey {
    /// The private key, PEM (PKCS #8).
    pub private_pem: String,
    /// The public key, PEM (SubjectPublicKeyInfo).
    pub public_pem: String,
    /// The public key, DER (SubjectPublicKeyInfo): its SHA-256 makes the key's id.
    pub public_der: Vec<u8>,
    /// The public point, uncompressed: 0x04, x (32 bytes), y (32 bytes).
    pub public_point: Vec<u8>,
}

impl ServiceAccountKey {
    /// Reads the key from `path`, or makes one and writes it there.
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        let key = match files::read(path)? {
            Some(pem) => key_from_pem(path, &pem)?,
            None => {
                let key = KeyPair::generate()?;
                files::write(path, &key.serialize_pem())?;
                key
            }
        };
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(unusable(path, "the key is not an ECDSA key on P-256"));
        }
        Ok(ServiceAccountKey {
            private_pem: key.serialize_pem(),
            public_pem: key.public_key_pem(),
            public_der: key.subject_public_key_info(),
            public_point: key.public_key_raw().to_vec(),
        })
    }
}
