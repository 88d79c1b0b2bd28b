//! Certificates as a signing request asks for them: subject and names are the sender's, usages and life those that were
//! approved. Start at [`Authority::sign_as_asked`].
// upstream: pkg/controller/certificates/authority
use crate::Error;
use crate::authority::{Authority, Issued, not_after};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, SigningKey,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::time::{Duration, SystemTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// Certificates are valid from this long before they are made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Shorter lives are not shortened by it.
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);

/// What a certificate may be used for: the usages of a CertificateSigningRequest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    key: Vec<KeyUsagePurpose>,
    extended: Vec<ExtendedKeyUsagePurpose>,
}

impl Usages {
    /// Reads the names that the API has for usages; the unknown ones are the error.
    // upstream: keyUsagesFromStrings
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Vec<String>> {
        let (mut usages, mut unknown) = (Usages::default(), Vec::new());
        for name in names {
            match (key_usage(name), extended_usage(name)) {
                (Some(usage), _) if !usages.key.contains(&usage) => usages.key.push(usage),
                (_, Some(usage)) if !usages.extended.contains(&usage) => usages.extended.push(usage),
                (None, None) => unknown.push(name.to_owned()),
                _ => {}
            }
        }
        if unknown.is_empty() { Ok(usages) } else { Err(unknown) }
    }
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    // RFC 5280, 4.2.1.12, and what was assigned before and after it.
    let other = |last: u64| ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, last]);
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "ipsec end system" => other(5),
        "ipsec tunnel" => other(6),
        "ipsec user" => other(7),
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        "microsoft sgc" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => ExtendedKeyUsagePurpose::Other(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

impl Authority {
    /// Signs what the request asks for, whose sender the caller has authorized: its key, its subject and its names. The
    /// certificate ends with the authority's own at the latest.
    pub fn sign_as_asked(&self, request_pem: &str, usages: &Usages, life: Duration) -> Result<Issued, Error> {
        let block = Pem::iter_from_buffer(request_pem.as_bytes()).next().and_then(Result::ok);
        let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
        let block = block.ok_or_else(|| unreadable("PEM block type must be CERTIFICATE REQUEST"))?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(unreadable)?;
        request.verify_signature().map_err(unreadable)?;
        let info = &request.certification_request_info;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)?;
        let params = self.asked_params(names(&request)?, usages, life)?;
        let certificate = params.signed_by(&key, self.issuer())?;
        let der =
            with_subject(certificate.der(), info.subject.as_raw(), |bytes| Ok(self.issuer().key().sign(bytes)?))?;
        Ok(Issued { certificate_pem: pem(&der), key_pem: String::new() })
    }

    fn asked_params(
        &self,
        subject_alt_names: Vec<SanType>,
        usages: &Usages,
        life: Duration,
    ) -> Result<CertificateParams, Error> {
        let now = self.clock().now();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = subject_alt_names;
        params.not_before = (now - BACKDATE).into();
        let life = if life < SHORT { life } else { life - BACKDATE };
        params.not_after = (now + life).min(self.not_after()).into();
        params.serial_number = Some(crate::authority::random_serial()?.into());
        params.key_usages = usages.key.clone();
        params.extended_key_usages = usages.extended.clone();
        params.use_authority_key_identifier_extension = true;
        // A leaf says explicitly that it is no authority (critical basicConstraints with an empty sequence).
        let mut no_authority = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x00]);
        no_authority.set_criticality(true);
        params.custom_extensions = vec![no_authority];
        Ok(params)
    }
}

/// When a certificate (PEM) ends.
pub fn end_of(pem: &[u8]) -> Option<SystemTime> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(not_after(&certificate))
}

fn unreadable(why: impl std::fmt::Display) -> Error {
    Error::Request(why.to_string())
}

/// The alternative names that a request asks for.
fn names(request: &X509CertificationRequest<'_>) -> Result<Vec<SanType>, Error> {
    let text = |text: &str| Ia5String::try_from(text.to_owned()).map_err(Error::from);
    let mut found = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            found.push(match name {
                GeneralName::DNSName(name) => SanType::DnsName(text(name)?),
                GeneralName::RFC822Name(name) => SanType::Rfc822Name(text(name)?),
                GeneralName::URI(name) => SanType::URI(text(name)?),
                GeneralName::IPAddress(bytes) => {
                    let address = crate::request::address(bytes).ok_or_else(|| unreadable("an IP address"))?;
                    SanType::IpAddress(address)
                }
                _ => continue,
            });
        }
    }
    Ok(found)
}

/// The certificate with another subject, byte for byte, signed anew: a subject may name an attribute several times, which
/// the library that made the certificate cannot.
fn with_subject(
    certificate: &[u8],
    subject: &[u8],
    sign: impl Fn(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(unreadable)?;
    let body: &[u8] = parsed.tbs_certificate.as_ref();
    let old = parsed.tbs_certificate.subject.as_raw();
    let content = content(body).ok_or_else(|| unreadable("the certificate's length"))?;
    // The subject lies within the certificate: where, the addresses say.
    let at = (old.as_ptr() as usize).checked_sub(content.as_ptr() as usize);
    let at = at.filter(|at| content.get(*at..*at + old.len()) == Some(old));
    let at = at.ok_or_else(|| unreadable("the certificate's subject"))?;
    let changed = sequence(&[&content[..at], subject, &content[at + old.len()..]]);
    let signature = sign(&changed)?;
    // What follows the body up to the signature is the algorithm, which stays.
    let outer = self::content(certificate).ok_or_else(|| unreadable("the certificate's length"))?;
    let rest = outer.get(body.len()..).ok_or_else(|| unreadable("the certificate's algorithm"))?;
    let algorithm = element(rest).ok_or_else(|| unreadable("the certificate's algorithm"))?;
    let mut bits = vec![0x03];
    push_length(&mut bits, signature.len() + 1);
    bits.push(0);
    bits.extend(signature);
    Ok(sequence(&[&changed, algorithm, &bits]))
}

/// Where an element's content begins and ends.
fn bounds(der: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*der.get(1)?);
    if first < 0x80 {
        return Some((2, 2 + first));
    }
    let bytes = der.get(2..2 + (first & 0x7f))?;
    let length =
        bytes.iter().try_fold(0_usize, |length, byte| length.checked_mul(256)?.checked_add(usize::from(*byte)))?;
    let begin = 2 + bytes.len();
    Some((begin, begin.checked_add(length)?))
}

fn content(der: &[u8]) -> Option<&[u8]> {
    let (begin, end) = bounds(der)?;
    der.get(begin..end)
}

/// The first element of `der`, whole.
fn element(der: &[u8]) -> Option<&[u8]> {
    der.get(..bounds(der)?.1)
}

fn push_length(der: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            // A length has at most eight bytes.
            der.push(0x80 | significant.len() as u8);
            der.extend_from_slice(significant);
        }
    }
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let mut der = vec![0x30];
    push_length(&mut der, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = next;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    debug_assert!(CertificateDer::from_pem_slice(pem.as_bytes()).is_ok());
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, LeafSpec, request};
    use rcgen::{DnType, KeyPair};

    fn authority(directory: &tempfile::TempDir) -> Authority {
        Authority::open_or_create(&directory.path().join("ca.pem"), "kubernetes", Clock::system()).unwrap()
    }

    #[test]
    fn subject_and_names_are_those_of_the_request() {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority(&directory);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        // The same attribute twice, which needs two types here.
        params.distinguished_name.push(DnType::OrganizationName, "dev");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "ops");
        params.distinguished_name.push(DnType::CommonName, "jane");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let usages = Usages::parse(["client auth", "digital signature"]).unwrap();
        let issued = authority.sign_as_asked(&pem, &usages, Duration::from_secs(3600)).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let organizations: Vec<_> =
            certificate.subject().iter_organization().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(organizations, ["dev", "ops"]);
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 2);
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(!certificate.key_usage().unwrap().unwrap().value.key_encipherment());
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        let ca_der = authority.certificate().clone();
        let (_, ca) = X509Certificate::from_der(&ca_der).unwrap();
        certificate.verify_signature(Some(ca.public_key())).unwrap();
        let end = end_of(issued.certificate_pem.as_bytes()).unwrap();
        let left = end.duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((3590..=3600).contains(&left), "{left}");
    }

    #[test]
    fn requests_that_nobody_signed_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority(&directory);
        let (_, pem) = request::create(&LeafSpec::client("jane", None)).unwrap();
        let mut lines: Vec<&str> = pem.lines().collect();
        let last = lines.len() - 2;
        let changed = lines[last].replace(|c: char| c.is_ascii_lowercase(), "A");
        lines[last] = &changed;
        let usages = Usages::parse(["client auth"]).unwrap();
        assert!(authority.sign_as_asked(&lines.join("\n"), &usages, Duration::from_secs(600)).is_err());
        assert!(authority.sign_as_asked("nonsense", &usages, Duration::from_secs(600)).is_err());
        assert_eq!(Usages::parse(["client auth", "flying"]).unwrap_err(), ["flying"]);
    }
}
