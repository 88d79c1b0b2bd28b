//! Certificate signing requests: made by whoever keeps the key, read by whoever decides about them.
use crate::{Error, LeafSpec};
use rcgen::{CertificateParams, DnType, KeyPair};
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// What a request says about its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningRequest {
    /// The subject's CN.
    pub common_name: String,
    /// The subject's Os.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
    /// How many e-mail addresses there are.
    pub emails: usize,
    /// How many URIs there are.
    pub uris: usize,
}

impl SigningRequest {
    /// Reads PEM; `None` if it is no certificate request. The signature is checked when the request is signed.
    pub fn parse(pem: &[u8]) -> Option<Self> {
        let block = Pem::iter_from_buffer(pem).next()?.ok().filter(|block| block.label == "CERTIFICATE REQUEST")?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents).ok()?;
        let subject = &parsed.certification_request_info.subject;
        let text = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| part.as_str().unwrap_or_default().to_owned();
        let mut request = SigningRequest {
            common_name: subject.iter_common_name().map(text).next().unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
            ..SigningRequest::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => request.dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => request.addresses.push(address(bytes)?),
                    GeneralName::RFC822Name(_) => request.emails += 1,
                    GeneralName::URI(_) => request.uris += 1,
                    _ => return None,
                }
            }
        }
        Some(request)
    }

    /// All names that a server answers for.
    pub fn names(&self) -> Vec<String> {
        self.dns_names.iter().cloned().chain(self.addresses.iter().map(ToString::to_string)).collect()
    }
}

pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// A fresh key and the request for a certificate as `spec` says, both PEM.
pub fn create(spec: &LeafSpec) -> Result<(String, String), Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(spec.subject_alt_names.clone())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    for organization in &spec.organizations {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, spec.common_name.as_str());
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_can_be_read() {
        let spec = LeafSpec::kubelet_serving("n1", &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        let (_, pem) = create(&spec).unwrap();
        let request = SigningRequest::parse(pem.as_bytes()).unwrap();
        assert_eq!(request.common_name, "system:node:n1");
        assert_eq!(request.organizations, ["system:nodes"]);
        assert_eq!(request.dns_names, ["n1"]);
        let mut names = request.names();
        names.sort();
        assert_eq!(names, ["192.0.2.1", "2001:db8::1", "n1"]);
        assert_eq!(SigningRequest::parse(b"nonsense"), None);
    }
}
