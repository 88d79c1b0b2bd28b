//! CertificateSigningRequests.
// upstream: pkg/apis/certificates/validation
use super::field::{Errors, Field};
use crate::value::{Read, same};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pintle_api::field::{FieldError, go_quote};
use pintle_api::names;
use serde_json::Value;
use std::collections::HashSet;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

/// What an update may change besides metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// Nothing.
    Nothing,
    /// Approve or deny.
    Approve,
    /// Set the certificate.
    Sign,
}

/// A new request.
pub(crate) fn request(object: &Value) -> Errors {
    judge(object, None)
}

/// A changed request.
pub(crate) fn request_update(new: &Value, old: &Value, may: May) -> Errors {
    let mut errors = judge(new, Some(old));
    let status = Field::root(new, "status");
    let (path, certificate) = (status.child("conditions"), status.child("certificate"));
    let of = |request: &Value, kind: &str| -> Vec<Value> {
        let conditions = request.field("status").items("conditions").iter();
        conditions.filter(|c| c.text("type") == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            errors.push(path.forbidden(format!("updates may not remove a condition of type {}", go_quote(kind))));
        }
    }
    for kind in ["Approved", "Denied"].into_iter().filter(|_| may != May::Approve) {
        let (old, new) = (of(old, kind), of(new, kind));
        if new.len() > old.len() {
            errors.push(path.forbidden(format!("updates may not add a condition of type {}", go_quote(kind))));
        } else if new.len() == old.len() && new != old {
            errors.push(path.forbidden(format!("updates may not modify a condition of type {}", go_quote(kind))));
        }
    }
    let before = old.field("status").field("certificate");
    if !same(certificate.value, before) {
        if may != May::Sign {
            errors.push(certificate.forbidden("updates may not set certificate content"));
        } else if !crate::value::is_zero(before) {
            errors.push(certificate.forbidden("updates may not modify existing certificate content"));
        }
    }
    errors
}

fn judge(object: &Value, old: Option<&Value>) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let old_spec = old.map(|old| old.field("spec"));
    let request = spec.child("request");
    if let Err(wrong) = parse_request(request.text()) {
        errors.push(request.invalid(wrong));
    }
    usages(&spec.child("usages"), old_spec, &mut errors);
    let signer = spec.child("signerName");
    if signer.text() == LEGACY_SIGNER && old_spec.is_none_or(|old| old.text("signerName") != LEGACY_SIGNER) {
        errors.push(signer.invalid("the legacy signerName is not allowed via this API version"));
    } else {
        signer_name(&signer, &mut errors);
    }
    let expiration = spec.child("expirationSeconds");
    if expiration.is_set() && expiration.int() < 600 {
        errors.push(expiration.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    let status = Field::root(object, "status");
    conditions(&status.child("conditions"), &mut errors);
    let certificate = status.child("certificate");
    let kept = old.is_some_and(|old| same(old.field("status").field("certificate"), certificate.value));
    if let (false, Err(wrong)) = (kept, certificates(certificate.text())) {
        errors.push(FieldError::invalid(&certificate.path, "<certificate data>", wrong));
    }
    errors
}

fn usages(field: &Field<'_>, old: Option<&Value>, errors: &mut Errors) {
    field.required("", errors);
    // What was let in once does not keep an update from passing.
    let stored: Vec<&str> = old.into_iter().flat_map(|old| old.texts("usages")).collect();
    let (mut seen, mut known) = (HashSet::new(), HashSet::new());
    let duplicates = stored.iter().any(|usage| !known.insert(*usage));
    let foreign = stored.iter().any(|usage| !USAGES.contains(usage));
    for usage in field.items() {
        if !foreign {
            usage.one_of(&USAGES, errors);
        }
        if !seen.insert(usage.text()) && !duplicates {
            errors.push(FieldError::duplicate(&usage.path, usage.text()));
        }
    }
}

fn conditions(field: &Field<'_>, errors: &mut Errors) {
    let (mut seen, mut approved, mut denied) = (HashSet::new(), false, false);
    for condition in field.items() {
        let (kind, status) = (condition.child("type"), condition.child("status"));
        kind.required("", errors);
        let values: &[&str] = match kind.text() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        status.required_one_of(values, errors);
        approved |= kind.text() == "Approved";
        denied |= kind.text() == "Denied";
        if approved && denied && matches!(kind.text(), "Approved" | "Denied") {
            let text = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&field.path, kind.text(), text));
        }
        if !seen.insert(kind.text().to_owned()) {
            errors.push(FieldError::duplicate(&kind.path, kind.text()));
        }
    }
}

// upstream: pkg/apis/core/validation, ValidateSignerName
fn signer_name(field: &Field<'_>, errors: &mut Errors) {
    let name = field.text();
    if name.is_empty() {
        return errors.push(field.missing(""));
    }
    let (Some((domain, path)), 1) = (name.split_once('/'), name.matches('/').count()) else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.push(field.invalid(text));
    };
    if domain.len() > 253 {
        errors.push(FieldError::too_long(&field.path, 253));
    }
    let mut labels = |whole: &str, check: fn(&str) -> Vec<String>| {
        let wrong = whole.split('.').map(|label| (label, check(label))).find(|(_, wrong)| !wrong.is_empty());
        for (label, wrong) in wrong.into_iter().flat_map(|(label, wrong)| wrong.into_iter().map(move |w| (label, w))) {
            let text = format!("validating label {}: {wrong}", go_quote(label));
            errors.push(FieldError::invalid(&field.path, whole, text));
        }
    };
    labels(domain, names::dns1123_label);
    labels(path, names::dns1123_subdomain);
    if !domain.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(&field.path, domain, text));
    }
    if name.len() > 571 {
        errors.push(FieldError::too_long(&field.path, 571));
    }
}

/// Whether `request` (base64 of PEM) is a signed certificate request.
fn parse_request(request: &str) -> Result<(), String> {
    let pem = STANDARD.decode(request).unwrap_or_default();
    let block = Pem::iter_from_buffer(&pem).next().and_then(Result::ok);
    let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, parsed) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| format!("x509: malformed certificate request: {error}"))?;
    parsed.verify_signature().map_err(|_| "x509: the request's signature is not that of its key".to_owned())
}

/// Whether `text` (base64 of PEM) holds certificates and nothing else; none at all is fine.
fn certificates(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let pem = STANDARD.decode(text).unwrap_or_default();
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&pem) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {}", go_quote(&block.label)));
        }
        X509Certificate::from_der(&block.contents).map_err(|error| format!("x509: malformed certificate: {error}"))?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(spec: Value) -> Value {
        json!({"metadata": {"name": "r"}, "spec": spec, "status": {}})
    }

    #[test]
    fn what_is_wrong_with_a_request_is_named() {
        let found = request(&object(json!({"request": "bm9uZQ==", "signerName": "kubernetes", "usages": ["a", "a"],
            "expirationSeconds": 5})));
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        for part in ["CERTIFICATE REQUEST", "example.com/signer-name", "usages[0]", "Duplicate", "600 seconds"] {
            assert!(texts.iter().any(|text| text.contains(part)), "{part}: {texts:#?}");
        }
    }

    #[test]
    fn approval_and_signature_cannot_be_taken_back_or_contradict() {
        let with = |status: Value| json!({"metadata": {}, "spec": {"request": "", "signerName": "a.b/c", "usages": ["any"]}, "status": status});
        let approved = with(json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "YQ=="}));
        let has = |errors: &Errors, part: &str| errors.iter().any(|error| error.to_string().contains(part));
        assert!(has(&request_update(&with(json!({})), &approved, May::Approve), "may not remove a condition"));
        let both =
            with(json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]}));
        assert!(has(&request_update(&both, &approved, May::Approve), "mutually exclusive"));
        assert!(has(&request_update(&approved, &with(json!({})), May::Nothing), "may not add a condition"));
        let other = with(json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "Yg=="}));
        assert!(has(&request_update(&other, &approved, May::Sign), "may not modify existing certificate"));
    }
}
