//! A leaf certificate that renews itself: kept on disk, swapped under running TLS configurations. Start at [`Leaf`].
use crate::Error;
use crate::authority::{Authority, key_from_pem, not_after, not_before, pem_block};
use crate::files::{self, unusable};
use arc_swap::ArcSwap;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, crypto};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSpec {
    /// The subject's CN: the user name of a client.
    pub common_name: String,
    /// The subject's O: the group of a client (at most one can be issued).
    pub organizations: Vec<String>,
    /// DNS names and IP addresses that a server answers for.
    pub subject_alt_names: Vec<String>,
    /// Extended key usages.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl LeafSpec {
    /// A client named `user`, member of `group`.
    pub fn client(user: &str, group: Option<&str>) -> Self {
        LeafSpec {
            common_name: user.to_owned(),
            organizations: group.map(str::to_owned).into_iter().collect(),
            subject_alt_names: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    /// A server that answers for `names` (DNS names and IP addresses); repeated names are dropped.
    pub fn server(common_name: &str, names: impl IntoIterator<Item = String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
        LeafSpec {
            common_name: common_name.to_owned(),
            organizations: Vec::new(),
            subject_alt_names: names.into_iter().collect(),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
    }

    /// The client certificate of a node's kubelet: `system:node:<name>` in `system:nodes`.
    pub fn node_client(node: &str) -> Self {
        LeafSpec::client(&format!("system:node:{node}"), Some("system:nodes"))
    }

    /// The serving certificate of a node's kubelet.
    pub fn kubelet_serving(node: &str, addresses: &[IpAddr]) -> Self {
        let names = addresses.iter().map(ToString::to_string).chain([node.to_owned()]);
        let mut spec = LeafSpec::server(&format!("system:node:{node}"), names);
        spec.organizations = vec!["system:nodes".to_owned()];
        spec
    }
}

/// One state of a leaf: what TLS needs, and the PEM text it came from.
#[derive(Debug)]
pub struct LeafState {
    /// Certificate chain and key for rustls.
    pub certified: Arc<CertifiedKey>,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PEM.
    pub key_pem: String,
    /// The subject's CN.
    pub common_name: String,
    /// The DNS names and addresses in it.
    pub subject_alt_names: BTreeSet<String>,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// When a third of its life is left: the time to renew.
    pub renew_at: SystemTime,
}

/// A leaf certificate under renewal; give it to rustls as a certificate resolver.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    spec: LeafSpec,
    state: ArcSwap<LeafState>,
    renewals: watch::Sender<u64>,
}

impl Leaf {
    /// Reads the leaf from `path` (PEM: certificate and key). It is issued anew if the file does not exist, if `spec` says
    /// something else than the certificate (an address changed), or if it is due for renewal.
    pub fn open_or_create(path: &Path, spec: LeafSpec, authority: &Authority) -> Result<Arc<Self>, Error> {
        let now = authority.clock().now();
        let kept = files::read(path)?.map(|pem| parse(path, &pem, authority)).transpose()?;
        let state = match kept {
            Some((state, said)) if said == wanted(&spec) && state.renew_at > now => state,
            _ => issue(path, &spec, authority)?,
        };
        Ok(Arc::new(Leaf {
            path: path.to_owned(),
            spec,
            state: ArcSwap::from_pointee(state),
            renewals: watch::Sender::new(0),
        }))
    }

    /// The state in force.
    pub fn current(&self) -> Arc<LeafState> {
        self.state.load_full()
    }

    /// What the certificate says.
    pub fn spec(&self) -> &LeafSpec {
        &self.spec
    }

    /// Changes with each renewal: for what embeds the certificate, such as a kubeconfig file.
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// Issues the leaf anew if it is due; returns when the next renewal is.
    pub fn renew_if_due(&self, authority: &Authority) -> Result<SystemTime, Error> {
        let current = self.state.load();
        if current.renew_at > authority.clock().now() {
            return Ok(current.renew_at);
        }
        let renewed = issue(&self.path, &self.spec, authority)?;
        let next = renewed.renew_at;
        tracing::info!(subject = %self.spec.common_name, file = %self.path.display(), "renewed a certificate");
        self.state.store(Arc::new(renewed));
        self.renewals.send_modify(|count| *count += 1);
        Ok(next)
    }
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.state.load().certified.clone())
    }
}

impl ResolvesClientCert for Leaf {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.state.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// CN, O and names, to compare what a certificate says with what it should say.
type Said = (String, Vec<String>, BTreeSet<String>);

fn wanted(spec: &LeafSpec) -> Said {
    (spec.common_name.clone(), spec.organizations.clone(), spec.subject_alt_names.iter().cloned().collect())
}

fn issue(path: &Path, spec: &LeafSpec, authority: &Authority) -> Result<LeafState, Error> {
    let issued = authority.issue(spec)?;
    let pem = issued.certificate_pem + &issued.key_pem;
    let (state, _) = parse(path, &pem, authority)?;
    files::write(path, &pem)?;
    Ok(state)
}

fn parse(path: &Path, pem: &str, authority: &Authority) -> Result<(LeafState, Said), Error> {
    parse_said(path, pem, authority.certificate(), authority.path())
}

/// The state of a leaf that an authority elsewhere issued: its certificate is `ca`, kept in `ca_path`.
pub(crate) fn parse_issued(
    path: &Path,
    pem: &str,
    ca: &CertificateDer<'_>,
    ca_path: &Path,
) -> Result<LeafState, Error> {
    parse_said(path, pem, ca, ca_path).map(|(state, _)| state)
}

fn parse_said(path: &Path, pem: &str, ca: &CertificateDer<'_>, ca_path: &Path) -> Result<(LeafState, Said), Error> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(path, format!("the certificate is damaged ({error})")))?;
    let first = chain.first().ok_or_else(|| unusable(path, "the file holds no certificate"))?;
    let key = key_from_pem(path, pem)?;
    let (said, not_before, not_after) = {
        let (_, x509) = X509Certificate::from_der(first)
            .map_err(|error| unusable(path, format!("the certificate is damaged ({error})")))?;
        let (_, ca) = X509Certificate::from_der(ca)
            .map_err(|error| unusable(ca_path, format!("the certificate is damaged ({error})")))?;
        if x509.verify_signature(Some(ca.public_key())).is_err() {
            let reason = format!("the certificate was not issued by {}", ca_path.display());
            return Err(unusable(path, reason));
        }
        if x509.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(unusable(path, "the certificate and the key do not belong together"));
        }
        (said(&x509), not_before(&x509), not_after(&x509))
    };
    let der = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| unusable(path, format!("the private key is damaged ({error})")))?;
    let signing = crypto::ring::sign::any_supported_type(&der)
        .map_err(|error| unusable(path, format!("the private key cannot be used ({error})")))?;
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let state = LeafState {
        certified: Arc::new(CertifiedKey::new(chain, signing)),
        certificate_pem: pem_block(pem, "CERTIFICATE"),
        key_pem: key.serialize_pem(),
        common_name: said.0.clone(),
        subject_alt_names: said.2.clone(),
        not_after,
        renew_at: not_after - life / 3,
    };
    Ok((state, said))
}

fn said(x509: &X509Certificate<'_>) -> Said {
    let subject = x509.subject();
    let text = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| part.as_str().unwrap_or_default().to_owned();
    let common_name = subject.iter_common_name().map(text).next().unwrap_or_default();
    let organizations = subject.iter_organization().map(text).collect();
    let names = x509.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    });
    (common_name, organizations, names.collect())
}
