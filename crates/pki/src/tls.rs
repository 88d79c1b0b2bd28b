//! rustls configurations over the cluster's certificates. Start at [`server_config`] and [`client_config`].
use crate::{Authority, Error, Leaf};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::Duration;

/// Who may finish a handshake with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Anyone; a client may show any certificate, whose key it proves to hold. Whether the certificate is one of the
    /// cluster's is for the authenticator to decide ([`ClientVerifier`]), so that a stranger gets 401 and no broken
    /// handshake, as upstream does.
    Requested,
    /// Anyone; but a certificate that a client shows must be one of the authority's: for servers that take the name in it
    /// for the client's.
    Verified,
    /// Only clients with a certificate issued by the authority.
    Required,
}

/// ring, explicitly.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A server that shows `leaf` and speaks `alpn` (e.g. `h2`, `http/1.1`), asking clients for certificates of `authority`.
pub fn server_config(
    leaf: Arc<Leaf>,
    authority: &Authority,
    auth: ClientAuth,
    alpn: &[&str],
) -> Result<ServerConfig, Error> {
    let verifier: Arc<dyn ClientCertVerifier> = match auth {
        ClientAuth::Requested => Arc::new(AcceptAny::new(authority)?),
        ClientAuth::Verified => optional_verifier(authority.certificate())?,
        ClientAuth::Required => webpki_verifier(&[authority])?,
    };
    with_verifier(leaf, verifier, alpn)
}

/// [`server_config`] with [`ClientAuth::Verified`] for a server whose authority (with certificate `ca`) is elsewhere.
pub fn held_server_config(
    held: Arc<dyn ResolvesServerCert>,
    ca: &CertificateDer<'static>,
    alpn: &[&str],
) -> Result<ServerConfig, Error> {
    with_verifier(held, optional_verifier(ca)?, alpn)
}

fn with_verifier(
    leaf: Arc<dyn ResolvesServerCert>,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[&str],
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(leaf);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A client that trusts `authority` and shows `leaf`, if any.
pub fn client_config(authority: &Authority, leaf: Option<Arc<Leaf>>, alpn: &[&str]) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_root_certificates(roots(&[authority])?);
    let mut config = match leaf {
        Some(leaf) => builder.with_client_cert_resolver(leaf),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A client that trusts the authority with certificate `ca` and shows what `held` holds. It resumes no sessions: those
/// would go on with a certificate that has been replaced.
pub fn held_client_config(
    held: Option<Arc<dyn ResolvesClientCert>>,
    ca: &CertificateDer<'static>,
) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|error| Error::Tls(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match held {
        Some(held) => builder.with_client_cert_resolver(held),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Trusts any server.
pub fn accept_any_server() -> Arc<dyn ServerCertVerifier> {
    Arc::new(AcceptAnyServer(provider().signature_verification_algorithms))
}

/// A client that encrypts but trusts any server: for backends that the cluster knows nothing about, as upstream's proxy to
/// pods and services does.
pub fn unverified_client_config() -> Result<ClientConfig, Error> {
    let verifier = Arc::new(AcceptAnyServer(provider().signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| Error::Tls(error.to_string()))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// A client that trusts the certificates in `bundle` (PEM), or any server if there is none, and shows `leaf`, if any.
pub fn client_config_for(bundle: Option<&[u8]>, leaf: Option<Arc<Leaf>>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| Error::Tls(error.to_string()))?;
    let builder = match bundle {
        None => {
            let anyone = AcceptAnyServer(provider().signature_verification_algorithms);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(anyone))
        }
        Some(bundle) => {
            let mut store = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(bundle) {
                let certificate = certificate.map_err(|error| Error::Tls(error.to_string()))?;
                store.add(certificate).map_err(|error| Error::Tls(error.to_string()))?;
            }
            builder.with_root_certificates(store)
        }
    };
    Ok(match leaf {
        Some(leaf) => builder.with_client_cert_resolver(leaf),
        None => builder.with_no_client_auth(),
    })
}

/// Judges client certificates after the handshake.
#[derive(Clone, Debug)]
pub struct ClientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientVerifier {
    /// Trusts clients of `authority`.
    pub fn new(authority: &Authority) -> Result<Self, Error> {
        Ok(ClientVerifier(webpki_verifier(&[authority])?))
    }

    /// Whether `chain` (leaf first) leads to the authority, allows client authentication and is valid at `unix_seconds`.
    pub fn verify(&self, chain: &[CertificateDer<'_>], unix_seconds: u64) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| Error::Tls("no certificate".into()))?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds));
        self.0.verify_client_cert(leaf, intermediates, now).map_err(|error| Error::Tls(error.to_string()))?;
        Ok(())
    }
}

fn roots(authorities: &[&Authority]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store.add(authority.certificate().clone()).map_err(|error| Error::Tls(error.to_string()))?;
    }
    Ok(store)
}

fn optional_verifier(ca: &CertificateDer<'static>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|error| Error::Tls(error.to_string()))?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::Tls(error.to_string()))
}

fn webpki_verifier(authorities: &[&Authority]) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities)?), provider())
        .build()
        .map_err(|error| Error::Tls(error.to_string()))
}

/// Takes any client certificate, or none; checks only that the client holds its key.
#[derive(Debug)]
struct AcceptAny {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AcceptAny {
    fn new(authority: &Authority) -> Result<Self, Error> {
        let hints = roots(&[authority])?.subjects();
        Ok(AcceptAny { hints, algorithms: provider().signature_verification_algorithms })
    }
}

impl ClientCertVerifier for AcceptAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Takes any server certificate; checks only that the server holds its key.
#[derive(Debug)]
struct AcceptAnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
