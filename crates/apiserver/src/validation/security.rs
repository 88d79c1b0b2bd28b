//! Security contexts of pods and containers.
use super::common::{descending_path, go_struct, id};
use super::field::{Errors, Field};
use crate::value::Read;
use pintle_api::{
    field::{BadValue, FieldError},
    names,
};
use serde_json::Value;

/// The security context of a container.
pub(super) fn container_security(context: &Field<'_>, host_users: bool, errors: &mut Errors) {
    if !context.is_set() {
        return;
    }
    id(&context.child("runAsUser"), errors);
    id(&context.child("runAsGroup"), errors);
    let proc_mount = context.child("procMount");
    if proc_mount.is_set() {
        proc_mount.one_of(&["Default", "Unmasked"], errors);
        if host_users && proc_mount.text() == "Unmasked" {
            errors.push(proc_mount.invalid("`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(&context.child("seccompProfile"), errors);
    if context.value.field("allowPrivilegeEscalation").as_bool() == Some(false) {
        if context.value.flag("privileged") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(&context.path, as_go(context.value), text));
        }
        if context.value.field("capabilities").texts("add").any(|c| c == "CAP_SYS_ADMIN") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(&context.path, as_go(context.value), text));
        }
    }
    app_armor(&context.child("appArmorProfile"), errors);
    windows(&context.child("windowsOptions"), errors);
}

/// What only Windows knows of.
// upstream: validateWindowsSecurityContextOptions
fn windows(options: &Field<'_>, errors: &mut Errors) {
    const MAX_SPEC: usize = 64 * 1024;
    options.child("gmsaCredentialSpecName").checked(names::dns1123_subdomain, errors);
    let spec = options.child("gmsaCredentialSpec");
    if spec.is_set() && spec.text().is_empty() {
        errors.push(spec.invalid("gmsaCredentialSpec cannot be an empty string"));
    } else if spec.text().len() > MAX_SPEC {
        errors.push(spec.invalid("gmsaCredentialSpec size must be under 64 KiB"));
    }
    let user = options.child("runAsUserName");
    if user.is_set() {
        errors.extend(windows_user(user.text()).into_iter().map(|why| user.invalid(why)));
    }
}

/// What is wrong with `DOMAIN\\user` or `user`.
fn windows_user(name: &str) -> Vec<&'static str> {
    const FORBIDDEN: &str = "\"/\\:;|=,+*?<>@[]";
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [""] => return vec!["runAsUserName cannot be an empty string"],
        _ if name.chars().any(|c| c.is_ascii_control()) => {
            return vec!["runAsUserName cannot contain control characters"];
        }
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let mut wrong = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= 256) {
        wrong.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_windows_dns(domain)) {
        wrong.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        wrong.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        wrong.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        wrong.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|c| FORBIDDEN.contains(c)) {
        wrong.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    wrong
}

fn is_net_bios(domain: &str) -> bool {
    let allowed = |c: char| !"\\/:*?\"<>|".contains(c);
    domain.starts_with(|c| allowed(c) && c != '.') && domain.chars().count() <= 15 && domain.chars().all(allowed)
}

fn is_windows_dns(domain: &str) -> bool {
    let label = |label: &str| {
        let edge = |c: char| c.is_ascii_alphanumeric();
        !label.is_empty()
            && label.starts_with(edge)
            && label.ends_with(edge)
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    domain.split('.').all(label)
}

fn as_go(context: &Value) -> BadValue {
    const FIELDS: [(&str, &str); 12] = [
        ("Capabilities", "capabilities"),
        ("Privileged", "privileged"),
        ("SELinuxOptions", "seLinuxOptions"),
        ("WindowsOptions", "windowsOptions"),
        ("RunAsUser", "runAsUser"),
        ("RunAsGroup", "runAsGroup"),
        ("RunAsNonRoot", "runAsNonRoot"),
        ("ReadOnlyRootFilesystem", "readOnlyRootFilesystem"),
        ("AllowPrivilegeEscalation", "allowPrivilegeEscalation"),
        ("ProcMount", "procMount"),
        ("SeccompProfile", "seccompProfile"),
        ("AppArmorProfile", "appArmorProfile"),
    ];
    let mut context = context.clone();
    if let Some(capabilities) = context.get_mut("capabilities") {
        let lists = serde_json::json!({"Add": capabilities.field("add"), "Drop": capabilities.field("drop")});
        *capabilities = lists;
    }
    go_struct(&context, &FIELDS, true)
}

/// The security context of a pod; `spec` is the pod's.
pub(super) fn pod_security(context: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    id(&context.child("fsGroup"), errors);
    id(&context.child("runAsUser"), errors);
    id(&context.child("runAsGroup"), errors);
    context.child("supplementalGroups").items().for_each(|group| id(&group, errors));
    if spec.value.flag("shareProcessNamespace") && spec.value.flag("hostPID") {
        let at = context.child("shareProcessNamespace");
        errors.push(FieldError::invalid(&at.path, true, "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    windows(&context.child("windowsOptions"), errors);
    sysctls(&context.child("sysctls"), spec, errors);
    let change = context.child("fsGroupChangePolicy");
    if change.is_set() {
        change.one_of(&["Always", "OnRootMismatch"], errors);
    }
    seccomp(&context.child("seccompProfile"), errors);
    app_armor(&context.child("appArmorProfile"), errors);
    for (field, known) in
        [("supplementalGroupsPolicy", &["Merge", "Strict"][..]), ("seLinuxChangePolicy", &["Recursive"])]
    {
        let policy = context.child(field);
        if policy.is_set() {
            policy.one_of(known, errors);
        }
    }
}

fn sysctls(list: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for sysctl in list.items() {
        let name = sysctl.child("name");
        if name.is_zero() {
            errors.push(name.missing(""));
        } else if !is_sysctl(name.text()) {
            const REGEX: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(name.invalid(format!("must have at most 253 characters and match regex {REGEX}")));
        } else if seen.contains(&name.text()) {
            errors.push(FieldError::duplicate(&name.path, name.text()));
        }
        let dotted = name.text().replace('/', ".");
        let ipc = dotted.starts_with("kernel.shm")
            || dotted.starts_with("kernel.msg")
            || dotted.starts_with("fs.mqueue.")
            || dotted == "kernel.sem";
        if spec.value.flag("hostNetwork") && dotted.starts_with("net.") {
            errors.push(name.invalid("may not be specified when 'hostNetwork' is true"));
        } else if spec.value.flag("hostIPC") && ipc {
            errors.push(name.invalid("may not be specified when 'hostIPC' is true"));
        }
        seen.push(sysctl.value.text("name"));
    }
}

fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            part.starts_with(alphanumeric)
                && part.ends_with(alphanumeric)
                && part.chars().all(|c| alphanumeric(c) || matches!(c, '-' | '_'))
        })
}

fn seccomp(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.is_set() {
        return;
    }
    let (kind, file) = (profile.child("type"), profile.child("localhostProfile"));
    if kind.is_zero() {
        errors.push(kind.missing("type is required when seccompProfile is set"));
    } else {
        kind.one_of(&["Localhost", "RuntimeDefault", "Unconfined"], errors);
    }
    if kind.text() != "Localhost" {
        if file.is_set() {
            let text = "can only be set when seccomp type is Localhost";
            let shown = go_struct(profile.value, &[("Type", "type"), ("LocalhostProfile", "localhostProfile")], true);
            errors.push(FieldError::invalid(&file.path, shown, text));
        }
    } else if file.is_set() {
        descending_path(&file, errors);
    } else {
        errors.push(file.missing("must be set when seccomp type is Localhost"));
    }
}

fn app_armor(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.is_set() {
        return;
    }
    let (kind, name) = (profile.child("type"), profile.child("localhostProfile"));
    match kind.text() {
        "Localhost" => {
            let text = name.text();
            if !name.is_set() || (text.is_empty()) {
                errors.push(name.missing("must be set when AppArmor type is Localhost"));
            } else if text.trim() != text {
                errors.push(name.invalid("must not be padded with whitespace"));
            }
            if text.len() > 4095 {
                errors.push(FieldError::too_long(&name.path, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if name.is_set() {
                errors.push(name.invalid("can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(kind.missing("type is required when appArmorProfile is set")),
        _ => kind.one_of(&["Localhost", "RuntimeDefault", "Unconfined"], errors),
    }
}
