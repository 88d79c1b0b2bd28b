//! Who may ask for certificates, approve and sign them. Start at [`validate`].
// upstream: plugin/pkg/admission/certificates (approval, signing, subjectrestriction)
use super::{Attributes, Operation};
use crate::authz::default::ClusterAuthorizer;
use crate::authz::{self, Decision};
use crate::value::{Read, same};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pintle_api::field::go_quote;
use pintle_api::status::ApiError;
use pintle_pki::SigningRequest;
use serde_json::Value;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Judges a write of a CertificateSigningRequest.
pub(super) fn validate(
    attributes: &Attributes<'_>,
    object: &Value,
    authorizer: &ClusterAuthorizer,
) -> Result<(), ApiError> {
    let old = attributes.old.unwrap_or(&Value::Null);
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => restrict_subject(attributes, object),
        (Operation::Update, "approval") => may(attributes, old, authorizer, "approve", "approve"),
        (Operation::Update, "status") => {
            let (new, before) = (object.field("status"), old.field("status"));
            let unchanged = ["certificate", "conditions"].iter().all(|f| same(new.field(f), before.field(f)));
            if unchanged { Ok(()) } else { may(attributes, old, authorizer, "sign", "sign") }
        }
        _ => Ok(()),
    }
}

/// Nobody gets a client certificate that makes them the cluster's administrator.
fn restrict_subject(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let spec = object.field("spec");
    if spec.text("signerName") != CLIENT_SIGNER {
        return Ok(());
    }
    let pem = STANDARD.decode(spec.text("request")).unwrap_or_default();
    let Some(request) = SigningRequest::parse(&pem) else { return Ok(()) };
    if request.organizations.iter().any(|group| group == "system:masters") {
        let why = format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed");
        return Err(attributes.refuse(object, why));
    }
    Ok(())
}

/// Whether the user may do `verb` with this signer, or with all of its domain.
fn may(
    attributes: &Attributes<'_>,
    old: &Value,
    authorizer: &ClusterAuthorizer,
    verb: &str,
    what: &str,
) -> Result<(), ApiError> {
    let signer = old.field("spec").text("signerName");
    let domain = signer.split('/').next().unwrap_or_default();
    let allowed = [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let asked = authz::Attributes {
            user: attributes.cx.user.clone(),
            verb: verb.to_owned(),
            namespace: String::new(),
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            subresource: String::new(),
            name,
            field_selector: String::new(),
            is_resource_request: true,
            path: String::new(),
        };
        authorizer.decide(&asked).0 == Decision::Allow
    });
    if allowed {
        return Ok(());
    }
    let why = format!("user not permitted to {what} requests with signerName {}", go_quote(signer));
    Err(attributes.refuse(old, why))
}
