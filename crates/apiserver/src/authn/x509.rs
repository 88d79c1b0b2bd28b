//! Client certificates: the subject's CN names the user, its Os the groups. Start at [`ClientCertificates`].
use parking_lot::Mutex;
use pintle_api::user::UserInfo;
use pintle_pki::tls::ClientVerifier;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// How many certificates' users are remembered.
const REMEMBERED: usize = 1024;

/// Why a client certificate names no one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It was not issued by the cluster's authority, is not for clients, or its time is over.
    #[error("verifying certificate failed: {0}")]
    Untrusted(String),
    /// Its subject has no common name, or it cannot be read.
    #[error("the client certificate names no user")]
    Nameless,
}

/// Tells users by their client certificates. A connection shows the same certificate with every request, so the answer is
/// remembered as long as the certificate is valid.
#[derive(Debug)]
pub struct ClientCertificates {
    verifier: ClientVerifier,
    known: Mutex<HashMap<Vec<u8>, (UserInfo, u64)>>,
}

impl ClientCertificates {
    /// Trusts what `verifier` trusts.
    pub fn new(verifier: ClientVerifier) -> Self {
        ClientCertificates { verifier, known: Mutex::default() }
    }

    /// The user whose certificate `chain` (leaf first) is, at `now` (Unix seconds).
    pub fn user(&self, chain: &[CertificateDer<'_>], now: u64) -> Result<UserInfo, CertificateError> {
        let leaf = chain.first().ok_or(CertificateError::Nameless)?;
        if let Some((user, not_after)) = self.known.lock().get(leaf.as_ref())
            && now <= *not_after
        {
            return Ok(user.clone());
        }
        self.verifier.verify(chain, now).map_err(|error| CertificateError::Untrusted(error.to_string()))?;
        let (user, not_after) = read(leaf)?;
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(leaf.to_vec(), (user.clone(), not_after));
        Ok(user)
    }
}

fn read(leaf: &[u8]) -> Result<(UserInfo, u64), CertificateError> {
    let (_, x509) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Nameless)?;
    let text = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| part.as_str().unwrap_or_default().to_owned();
    let name = x509.subject().iter_common_name().map(text).next().unwrap_or_default();
    if name.is_empty() {
        return Err(CertificateError::Nameless);
    }
    let organizations: Vec<String> = x509.subject().iter_organization().map(text).collect();
    let groups: Vec<&str> = organizations.iter().map(String::as_str).collect();
    let mut user = UserInfo::new(name, &groups);
    let digest = Sha256::digest(leaf).iter().fold(String::from("X509SHA256="), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    });
    user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![digest]);
    let not_after = x509.validity().not_after.timestamp();
    Ok((user, not_after.try_into().unwrap_or(0)))
}
