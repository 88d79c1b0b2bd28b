//! A certificate that somebody else issues for a key that is kept here: a node's, as its agent holds it. Start at
//! [`Held::open`].
use crate::Error;
use crate::authority::pem_block;
use crate::files::{self, unusable};
use crate::leaf::{LeafState, parse_issued};
use arc_swap::ArcSwapOption;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// The certificate of an authority whose key is elsewhere.
#[derive(Clone, Debug)]
pub struct Trusted {
    path: PathBuf,
    certificate: CertificateDer<'static>,
}

impl Trusted {
    /// Reads the authority's certificate from `path`; `None` if there is no such file.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        files::read(path)?.map(|pem| Trusted::parse(path, &pem)).transpose()
    }

    /// Keeps the authority's certificate in `path` from now on.
    pub fn install(path: &Path, pem: &str) -> Result<Self, Error> {
        let trusted = Trusted::parse(path, pem)?;
        if let Some(dir) = path.parent() {
            files::create_dir(dir)?;
        }
        files::write(path, &pem_block(pem, "CERTIFICATE"))?;
        Ok(trusted)
    }

    /// The certificate in `pem`, which comes from `path`.
    pub fn parse(path: &Path, pem: &str) -> Result<Self, Error> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(path, format!("the file holds no readable certificate ({error})")))?;
        Ok(Trusted { path: path.to_owned(), certificate })
    }

    /// SHA-256 of the authority's public key (SubjectPublicKeyInfo), in hex: by it a token names its cluster.
    pub fn public_key_hash(&self) -> Result<String, Error> {
        let (_, x509) = X509Certificate::from_der(&self.certificate)
            .map_err(|error| unusable(&self.path, format!("the certificate is damaged ({error})")))?;
        let digest = Sha256::digest(x509.public_key().raw);
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }
}

/// A key with the certificate that was issued for it, if there is one yet; give it to rustls as a certificate resolver.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    authority: Trusted,
    state: ArcSwapOption<LeafState>,
}

impl Held {
    /// Takes up what `path` (PEM: certificate and key) holds, if anything.
    pub fn open(path: &Path, authority: &Trusted) -> Result<Arc<Self>, Error> {
        let state = files::read(path)?
            .map(|pem| parse_issued(path, &pem, &authority.certificate, &authority.path))
            .transpose()?;
        let state = ArcSwapOption::from_pointee(state);
        Ok(Arc::new(Held { path: path.to_owned(), authority: authority.clone(), state }))
    }

    /// Keeps a new certificate with its key; whoever serves or dials uses it from the next handshake on.
    pub fn install(&self, certificate_pem: &str, key_pem: &str) -> Result<(), Error> {
        let pem = format!("{}\n{key_pem}", certificate_pem.trim_end());
        let state = parse_issued(&self.path, &pem, &self.authority.certificate, &self.authority.path)?;
        files::write(&self.path, &pem)?;
        self.state.store(Some(Arc::new(state)));
        Ok(())
    }

    /// The state in force.
    pub fn current(&self) -> Option<Arc<LeafState>> {
        self.state.load_full()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.state.load().as_ref().map(|state| state.certified.clone())
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Held {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.state.load().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterPki, LeafSpec, Params, request};

    #[test]
    fn a_held_certificate_is_there_again_after_a_restart_and_a_foreign_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = |name: &str| ClusterPki::open_or_create(&dir.path().join(name), &Params::default()).unwrap();
        let (ours, foreign) = (cluster("ours"), cluster("foreign"));
        let node = dir.path().join("node");
        let trusted = Trusted::install(&node.join("ca.pem"), ours.authority().certificate_pem()).unwrap();
        let held = Held::open(&node.join("client.pem"), &trusted).unwrap();
        assert!(held.current().is_none() && !held.has_certs());
        let (key, request) = request::create(&LeafSpec::node_client("n1")).unwrap();
        let spec = LeafSpec::node_client("n1");
        let wrong = foreign.sign_request(&request, &spec).unwrap();
        assert!(held.install(&wrong.certificate_pem, &key).is_err());
        held.install(&ours.sign_request(&request, &spec).unwrap().certificate_pem, &key).unwrap();
        let trusted = Trusted::open(&node.join("ca.pem")).unwrap().unwrap();
        assert!(Held::open(&node.join("client.pem"), &trusted).unwrap().has_certs());
    }
}
