//! Which certificate a host shows: those of the Secrets that Ingresses name, and one for all other hosts.
use crate::table::{parent, secret_data};
use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::sync::Arc;

/// A resolver whose certificates are exchanged while it serves.
#[derive(Debug)]
pub(crate) struct Certificates {
    by_host: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
    /// For hosts without one, and for clients that name none.
    default: Arc<dyn ResolvesServerCert>,
}

impl Certificates {
    /// None yet but the one for all hosts.
    pub fn new(default: Arc<dyn ResolvesServerCert>) -> Self {
        Certificates { by_host: ArcSwap::default(), default }
    }

    /// From now on these.
    pub fn replace(&self, by_host: HashMap<String, Arc<CertifiedKey>>) {
        self.by_host.store(Arc::new(by_host));
    }

    fn of(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let known = self.by_host.load();
        let host = host.to_ascii_lowercase();
        known.get(&host).or_else(|| known.get(&format!("*.{}", parent(&host)?))).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|host| self.of(host)).or_else(|| self.default.resolve(hello))
    }
}

/// The certificate in a Secret of type `kubernetes.io/tls`, or what is wrong with it.
pub(crate) fn certified(secret: &Secret) -> Result<CertifiedKey, String> {
    let data = |key: &str| secret_data(secret, key).ok_or_else(|| format!("it has no {key}"));
    let chain = CertificateDer::pem_slice_iter(data("tls.crt")?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(data("tls.key")?).map_err(|error| format!("tls.key: {error}"))?;
    let key = any_supported_type(&key).map_err(|error| format!("tls.key: {error}"))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err("tls.key is not the key of tls.crt".to_owned())
        }
        _ => Ok(certified),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    /// A Secret with a certificate of its own for `host`.
    pub fn secret(host: &str) -> Secret {
        let issued = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        let data = [("tls.crt", issued.cert.pem()), ("tls.key", issued.signing_key.serialize_pem())];
        let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        Secret { data: Some(data.into()), ..Default::default() }
    }

    #[derive(Debug)]
    struct Nobody;

    impl ResolvesServerCert for Nobody {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }

    #[test]
    fn a_secret_has_a_certificate_and_its_key() {
        assert!(certified(&secret("x.io")).is_ok());
        let mut other = secret("x.io");
        let key = secret("y.io").data.unwrap()["tls.key"].clone();
        other.data.as_mut().unwrap().insert("tls.key".to_owned(), key);
        assert_eq!(certified(&other).unwrap_err(), "tls.key is not the key of tls.crt");
        assert_eq!(certified(&Secret::default()).unwrap_err(), "it has no tls.crt");
    }

    #[test]
    fn a_host_has_its_own_certificate_or_that_of_its_wildcard() {
        let certificates = Certificates::new(Arc::new(Nobody));
        let [own, wild] = ["a.x.io", "*.x.io"].map(|host| Arc::new(certified(&secret(host)).unwrap()));
        certificates.replace([("a.x.io".to_owned(), own.clone()), ("*.x.io".to_owned(), wild.clone())].into());
        assert!(Arc::ptr_eq(&certificates.of("A.x.io").unwrap(), &own));
        assert!(Arc::ptr_eq(&certificates.of("b.x.io").unwrap(), &wild));
        assert!(certificates.of("x.io").is_none());
    }
}
