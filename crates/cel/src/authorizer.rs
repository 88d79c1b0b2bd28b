//! What the variable `authorizer` asks. Start at [`Authorizer`].

/// A question for the authorizer, put together by an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Who is asked about: namespace and name of a service account, or none for the user of the request.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource; empty for resources.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource, empty for none.
    pub subresource: String,
    /// The namespace, empty for cluster-scoped.
    pub namespace: String,
    /// The object's name, empty for all.
    pub name: String,
    /// The field selector of a list, empty for none.
    pub field_selector: String,
    /// The label selector of a list, empty for none.
    pub label_selector: String,
    /// The verb.
    pub verb: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// Why no decision could be made; empty if one was.
    pub error: String,
}

/// Answers what an expression asks of `authorizer`.
pub trait Authorizer: Sync {
    /// Whether `check` is allowed.
    fn authorize(&self, check: &Check) -> Decision;
}
