//! A certificate authority: a self-signed certificate and its key, kept in one file. Start at [`Authority::open_or_create`].
use crate::clock::Clock;
use crate::files::{self, unusable};
use crate::{Error, LeafSpec};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an authority's own certificate is valid.
pub const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
/// How long a leaf certificate is valid.
pub const LEAF_LIFE: Duration = DAY.saturating_mul(365);
/// Certificates are valid from this long before they are made, for peers whose clocks lag.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A certificate authority that can issue leaf certificates.
pub struct Authority {
    path: PathBuf,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
    clock: Clock,
}

/// A freshly issued certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM (PKCS #8); empty if the requester kept it.
    pub key_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the authority from `path` (PEM: certificate and key), or makes one named `common_name` and writes it there.
    pub fn open_or_create(path: &Path, common_name: &str, clock: Clock) -> Result<Self, Error> {
        match files::read(path)? {
            Some(pem) => Authority::parse(path, &pem, clock),
            None => {
                let key = KeyPair::generate()?;
                let certificate = authority_params(common_name, clock.now())?.self_signed(&key)?;
                let pem = certificate.pem() + &key.serialize_pem();
                files::write(path, &pem)?;
                Authority::parse(path, &pem, clock)
            }
        }
    }

    fn parse(path: &Path, pem: &str, clock: Clock) -> Result<Self, Error> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(path, format!("the file holds no readable certificate ({error})")))?;
        let key = key_from_pem(path, pem)?;
        let (not_after, certificate_pem) = {
            let (_, x509) = X509Certificate::from_der(&certificate)
                .map_err(|error| unusable(path, format!("the certificate is damaged ({error})")))?;
            if !x509.is_ca() {
                return Err(unusable(path, "the certificate is not one of a certificate authority"));
            }
            if x509.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
                return Err(unusable(path, "the certificate and the key do not belong together"));
            }
            (not_after(&x509), pem_block(pem, "CERTIFICATE"))
        };
        if not_after <= clock.now() {
            return Err(unusable(path, "the certificate authority has expired"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority { path: path.to_owned(), certificate, certificate_pem, not_after, issuer, clock })
    }

    /// The file the authority is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The clock that decides about lifetimes.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Makes a key and a certificate for `spec`, valid for [`LEAF_LIFE`].
    pub fn issue(&self, spec: &LeafSpec) -> Result<Issued, Error> {
        let key = KeyPair::generate()?;
        let certificate = self.leaf_params(spec, LEAF_LIFE)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs the key of a certificate signing request for `life`, at most [`LEAF_LIFE`]. Subject, names and usages come
    /// from `spec`, which the caller has authorized; what the request asks for is not looked at.
    pub fn sign_request(&self, request_pem: &str, spec: &LeafSpec, life: Duration) -> Result<Issued, Error> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let certificate = self.leaf_params(spec, life.min(LEAF_LIFE))?.signed_by(&request.public_key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: String::new() })
    }

    fn leaf_params(&self, spec: &LeafSpec, life: Duration) -> Result<CertificateParams, Error> {
        let now = self.clock.now();
        let mut params = CertificateParams::new(spec.subject_alt_names.clone())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some((first, rest)) = spec.organizations.split_first() {
            params.distinguished_name.push(DnType::OrganizationName, first.as_str());
            if !rest.is_empty() {
                return Err(Error::Issue(rcgen::Error::UnsupportedExtension));
            }
        }
        params.distinguished_name.push(DnType::CommonName, spec.common_name.as_str());
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + life).min(self.not_after).into();
        params.serial_number = Some(SerialNumber::from(random_serial()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = spec.usages.clone();
        params.use_authority_key_identifier_extension = true;
        // A leaf says explicitly that it is no authority (critical basicConstraints with an empty sequence).
        let mut no_authority = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x00]);
        no_authority.set_criticality(true);
        params.custom_extensions = vec![no_authority];
        Ok(params)
    }
}

fn authority_params(common_name: &str, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(vec![common_name.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    params.serial_number = Some(SerialNumber::from(random_serial()?));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// 62 random bits, positive: RFC 5280 asks for a positive number, unique within the authority.
pub(crate) fn random_serial() -> Result<u64, Error> {
    let mut bytes = [0u8; 8];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::Tls("the system gives no random numbers".into()))?;
    Ok(u64::from_be_bytes(bytes) >> 2 | 1 << 61)
}

pub(crate) fn key_from_pem(path: &Path, pem: &str) -> Result<KeyPair, Error> {
    ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"]
        .into_iter()
        .map(|label| pem_block(pem, label))
        .find(|block| !block.is_empty())
        .and_then(|block| KeyPair::from_pem(&block).ok())
        .ok_or_else(|| unusable(path, "the file holds no readable private key"))
}

/// The first PEM block labelled `label`; empty if there is none.
pub(crate) fn pem_block(pem: &str, label: &str) -> String {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let Some(start) = pem.find(&begin) else { return String::new() };
    let Some(length) = pem[start..].find(&end) else { return String::new() };
    pem[start..start + length + end.len()].to_owned() + "\n"
}

pub(crate) fn not_after(x509: &X509Certificate<'_>) -> SystemTime {
    time(x509.validity().not_after.timestamp())
}

pub(crate) fn not_before(x509: &X509Certificate<'_>) -> SystemTime {
    time(x509.validity().not_before.timestamp())
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0))
}
