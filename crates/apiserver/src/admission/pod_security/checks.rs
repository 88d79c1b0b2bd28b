//! The checks of the pod security standards, in upstream's order and words. Start at [`evaluate`].
use crate::value::Read;
use pintle_api::field::go_quote;
use serde_json::Value;
use std::collections::BTreeSet;

/// A level of the standards; each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Anything goes.
    Privileged,
    /// No known privilege escalations.
    Baseline,
    /// Hardened.
    Restricted,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Level::Privileged, Level::Baseline, Level::Restricted].into_iter().find(|level| level.name() == text)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// What a pod does against the standards.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: String,
    detail: String,
}

fn problem(reason: &str, detail: String) -> Option<Problem> {
    Some(Problem { reason: reason.to_owned(), detail })
}

/// All problems as one text.
pub(super) fn details(problems: &[Problem]) -> String {
    let text = |problem: &Problem| match problem.detail.as_str() {
        "" => problem.reason.clone(),
        detail => format!("{} ({detail})", problem.reason),
    };
    problems.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The problems of a pod at `level`.
pub(super) fn evaluate(level: Level, metadata: &Value, spec: &Value) -> Vec<Problem> {
    let pod = Pod { metadata, spec };
    let checks: Vec<Option<Problem>> = match level {
        Level::Privileged => Vec::new(),
        Level::Baseline => vec![
            pod.app_armor(),
            pod.capabilities_baseline(),
            pod.host_namespaces(),
            pod.host_path_volumes(),
            pod.host_ports(),
            pod.probe_hosts(),
            pod.privileged(),
            pod.proc_mount(),
            pod.selinux(),
            pod.seccomp_baseline(),
            pod.sysctls(),
            pod.host_process(),
        ],
        Level::Restricted => vec![
            pod.app_armor(),
            pod.host_namespaces(),
            pod.host_ports(),
            pod.probe_hosts(),
            pod.privileged(),
            pod.proc_mount(),
            pod.selinux(),
            pod.sysctls(),
            pod.host_process(),
            pod.allow_privilege_escalation(),
            pod.capabilities_restricted(),
            pod.restricted_volumes(),
            pod.run_as_non_root(),
            pod.run_as_user(),
            pod.seccomp_restricted(),
        ],
    };
    checks.into_iter().flatten().collect()
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn containers_named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

#[derive(Clone, Copy)]
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| self.spec.items(list))
    }

    /// The names of the containers for which `bad` holds.
    fn bad(self, bad: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| bad(container)).map(|container| container.text("name")).collect()
    }

    fn context(self) -> &'a Value {
        self.spec.field("securityContext")
    }

    fn is_windows(self) -> bool {
        self.spec.field("os").text("name") == "windows"
    }

    /// A user namespace makes root in the pod nobody on the host.
    fn has_user_namespace(self) -> bool {
        self.spec.field("hostUsers").as_bool() == Some(false)
    }

    fn host_namespaces(self) -> Option<Problem> {
        let fields = ["hostNetwork", "hostPID", "hostIPC"];
        let set: Vec<String> =
            fields.iter().filter(|field| self.spec.flag(field)).map(|field| format!("{field}=true")).collect();
        (!set.is_empty()).then(|| problem("host namespaces", set.join(", "))).flatten()
    }

    fn privileged(self) -> Option<Problem> {
        let bad = self.bad(|container| container.field("securityContext").flag("privileged"));
        if bad.is_empty() {
            return None;
        }
        problem("privileged", format!("{} must not set securityContext.privileged=true", containers_named(&bad)))
    }

    fn capabilities_baseline(self) -> Option<Problem> {
        const ALLOWED: [&str; 13] = [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ];
        let (bad, capabilities) = self.added_capabilities(&ALLOWED);
        if bad.is_empty() {
            return None;
        }
        let detail = format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers_named(&bad),
            quoted(capabilities)
        );
        problem("non-default capabilities", detail)
    }

    /// Who adds capabilities beyond `allowed`, and which.
    fn added_capabilities(self, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
        let added = |container: &'a Value| container.field("securityContext").field("capabilities").texts("add");
        let bad = self.bad(|container| added(container).any(|capability| !allowed.contains(&capability)));
        let all = self.containers().flat_map(added).filter(|capability| !allowed.contains(capability)).collect();
        (bad, all)
    }

    fn capabilities_restricted(self) -> Option<Problem> {
        if self.is_windows() {
            return None;
        }
        let missing = self.bad(|container| {
            !container.field("securityContext").field("capabilities").texts("drop").any(|dropped| dropped == "ALL")
        });
        let (adding, capabilities) = self.added_capabilities(&["NET_BIND_SERVICE"]);
        let mut parts = Vec::new();
        if !missing.is_empty() {
            parts.push(format!(r#"{} must set securityContext.capabilities.drop=["ALL"]"#, containers_named(&missing)));
        }
        if !adding.is_empty() {
            parts.push(format!(
                "{} must not include {} in securityContext.capabilities.add",
                containers_named(&adding),
                quoted(capabilities)
            ));
        }
        (!parts.is_empty()).then(|| problem("unrestricted capabilities", parts.join("; "))).flatten()
    }

    fn host_path_volumes(self) -> Option<Problem> {
        let volumes = self.spec.items("volumes").iter().filter(|volume| volume.has("hostPath"));
        let names: Vec<&str> = volumes.map(|volume| volume.text("name")).collect();
        if names.is_empty() {
            return None;
        }
        problem("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)))
    }

    fn host_ports(self) -> Option<Problem> {
        let used = |container: &'a Value| {
            container.items("ports").iter().map(|port| port.int("hostPort")).filter(|port| *port != 0)
        };
        let bad = self.bad(|container| used(container).next().is_some());
        if bad.is_empty() {
            return None;
        }
        let ports: BTreeSet<String> = self.containers().flat_map(used).map(|port| port.to_string()).collect();
        let detail = format!(
            "{} {} {} {}",
            containers_named(&bad),
            plural("uses", "use", bad.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        );
        problem("hostPort", detail)
    }

    fn probe_hosts(self) -> Option<Problem> {
        let hosts = |container: &'a Value| {
            let lifecycle = container.field("lifecycle");
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| container.field(probe));
            let hooks = ["postStart", "preStop"].map(|hook| lifecycle.field(hook));
            let handlers = probes.into_iter().chain(hooks);
            handlers
                .flat_map(|handler| ["httpGet", "tcpSocket"].map(|action| handler.field(action).text("host")))
                .filter(|host| !host.is_empty())
        };
        let bad: BTreeSet<&str> = self.bad(|container| hosts(container).next().is_some()).into_iter().collect();
        if bad.is_empty() {
            return None;
        }
        let bad: Vec<&str> = bad.into_iter().collect();
        let all: BTreeSet<&str> = self.containers().flat_map(hosts).collect();
        let detail = format!(
            "{} {} {} {}",
            containers_named(&bad),
            plural("uses", "use", bad.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", all.len()),
            quoted(all)
        );
        problem("probe or lifecycle host", detail)
    }

    /// Who sets something forbidden: `pod`, `container "a"`, or both.
    fn setters(pod: bool, containers: &[&str]) -> String {
        let mut setters = Vec::new();
        if pod {
            setters.push("pod".to_owned());
        }
        if !containers.is_empty() {
            setters.push(containers_named(containers));
        }
        setters.join(" and ")
    }

    fn app_armor(self) -> Option<Problem> {
        let kind = |context: &'a Value| {
            Some(context.field("appArmorProfile")).filter(|p| !p.is_null()).map(|p| p.text("type"))
        };
        let bad_kind = |kind: &str| !matches!(kind, "RuntimeDefault" | "Localhost" | "");
        let pod = kind(self.context()).filter(|kind| bad_kind(kind));
        let of = |container: &'a Value| kind(container.field("securityContext")).filter(|kind| bad_kind(kind));
        let bad = self.bad(|container| of(container).is_some());
        let values: BTreeSet<&str> = self.containers().filter_map(of).chain(pod).collect();
        let mut values: Vec<String> = values.into_iter().map(str::to_owned).collect();
        let mut setters: Vec<String> = Vec::new();
        if pod.is_some() || !bad.is_empty() {
            setters.push(Self::setters(pod.is_some(), &bad));
        }
        let allowed = |value: &str| matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
        let mut annotations: Vec<String> = self
            .metadata
            .entries("annotations")
            .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
            .filter_map(|(key, value)| value.as_str().filter(|value| !allowed(value)).map(|value| (key, value)))
            .map(|(key, value)| format!("{key}={}", go_quote(value)))
            .collect();
        if !annotations.is_empty() {
            annotations.sort();
            setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
            values.extend(annotations);
        }
        if setters.is_empty() {
            return None;
        }
        let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
        problem(reason, format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(values)))
    }

    fn selinux(self) -> Option<Problem> {
        const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
        let options = |context: &'a Value| context.field("seLinuxOptions");
        let is_bad = |options: &Value| {
            !TYPES.contains(&options.text("type"))
                || !options.text("user").is_empty()
                || !options.text("role").is_empty()
        };
        let pod = is_bad(options(self.context()));
        let bad = self.bad(|container| is_bad(options(container.field("securityContext"))));
        if !pod && bad.is_empty() {
            return None;
        }
        let all: Vec<&Value> = std::iter::once(self.context())
            .chain(self.containers().map(|container| container.field("securityContext")))
            .map(options)
            .collect();
        let mut parts = Vec::new();
        let types: BTreeSet<&str> = all.iter().map(|o| o.text("type")).filter(|kind| !TYPES.contains(kind)).collect();
        if !types.is_empty() {
            parts.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
        }
        for field in ["user", "role"] {
            if all.iter().any(|options| !options.text(field).is_empty()) {
                parts.push(format!("{field} may not be set"));
            }
        }
        let setters = Self::setters(pod, &bad);
        let detail = format!("{setters} set forbidden securityContext.seLinuxOptions: {}", parts.join("; "));
        problem("seLinuxOptions", detail)
    }

    fn proc_mount(self) -> Option<Problem> {
        if self.has_user_namespace() {
            return None;
        }
        let mount = |container: &'a Value| container.field("securityContext").text("procMount");
        let bad = self.bad(|container| !matches!(mount(container), "" | "Default"));
        if bad.is_empty() {
            return None;
        }
        let kinds: BTreeSet<&str> =
            self.containers().map(mount).filter(|kind| !matches!(*kind, "" | "Default")).collect();
        let detail = format!("{} must not set securityContext.procMount to {}", containers_named(&bad), quoted(kinds));
        problem("procMount", detail)
    }

    fn seccomp_type(context: &'a Value) -> Option<&'a str> {
        Some(context.field("seccompProfile")).filter(|profile| !profile.is_null()).map(|profile| profile.text("type"))
    }

    fn seccomp_baseline(self) -> Option<Problem> {
        let is_bad = |kind: &&str| !matches!(*kind, "RuntimeDefault" | "Localhost");
        let pod = Self::seccomp_type(self.context()).filter(is_bad);
        let of = |container: &'a Value| Self::seccomp_type(container.field("securityContext")).filter(is_bad);
        let bad = self.bad(|container| of(container).is_some());
        if pod.is_none() && bad.is_empty() {
            return None;
        }
        let kinds: BTreeSet<&str> = self.containers().filter_map(of).chain(pod).collect();
        let setters = Self::setters(pod.is_some(), &bad);
        problem(
            "seccompProfile",
            format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(kinds)),
        )
    }

    fn seccomp_restricted(self) -> Option<Problem> {
        if self.is_windows() {
            return None;
        }
        if let Some(problem) = self.seccomp_baseline() {
            return Some(problem);
        }
        if Self::seccomp_type(self.context()).is_some() {
            return None;
        }
        let bad = self.bad(|container| Self::seccomp_type(container.field("securityContext")).is_none());
        if bad.is_empty() {
            return None;
        }
        let detail = format!(
            r#"pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#,
            containers_named(&bad)
        );
        problem("seccompProfile", detail)
    }

    fn sysctls(self) -> Option<Problem> {
        const ALLOWED: [&str; 12] = [
            "kernel.shm_rmid_forced",
            "net.ipv4.ip_local_port_range",
            "net.ipv4.tcp_syncookies",
            "net.ipv4.ping_group_range",
            "net.ipv4.ip_unprivileged_port_start",
            "net.ipv4.ip_local_reserved_ports",
            "net.ipv4.tcp_keepalive_time",
            "net.ipv4.tcp_fin_timeout",
            "net.ipv4.tcp_keepalive_intvl",
            "net.ipv4.tcp_keepalive_probes",
            "net.ipv4.tcp_rmem",
            "net.ipv4.tcp_wmem",
        ];
        let sysctls = self.context().items("sysctls").iter().map(|sysctl| sysctl.text("name"));
        let forbidden: Vec<&str> = sysctls.filter(|name| !ALLOWED.contains(name)).collect();
        (!forbidden.is_empty()).then(|| problem("forbidden sysctls", forbidden.join(", "))).flatten()
    }

    fn host_process(self) -> Option<Problem> {
        let is_bad = |context: &Value| context.field("windowsOptions").flag("hostProcess");
        let pod = is_bad(self.context());
        let bad = self.bad(|container| is_bad(container.field("securityContext")));
        if !pod && bad.is_empty() {
            return None;
        }
        let setters = Self::setters(pod, &bad);
        problem("hostProcess", format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"))
    }

    fn allow_privilege_escalation(self) -> Option<Problem> {
        if self.is_windows() {
            return None;
        }
        let bad = self.bad(|container| {
            container.field("securityContext").field("allowPrivilegeEscalation").as_bool() != Some(false)
        });
        if bad.is_empty() {
            return None;
        }
        let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers_named(&bad));
        problem("allowPrivilegeEscalation != false", detail)
    }

    fn restricted_volumes(self) -> Option<Problem> {
        const ALLOWED: [&str; 9] = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "image",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        let (mut names, mut types) = (Vec::new(), BTreeSet::new());
        for volume in self.spec.items("volumes") {
            let kind = volume.as_object().into_iter().flatten().find(|(key, value)| *key != "name" && !value.is_null());
            match kind {
                Some((kind, _)) if ALLOWED.contains(&kind.as_str()) => {}
                kind => {
                    names.push(volume.text("name"));
                    types.insert(kind.map_or("unknown", |(kind, _)| kind.as_str()));
                }
            }
        }
        if names.is_empty() {
            return None;
        }
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", types.len()),
            quoted(types)
        );
        problem("restricted volume types", detail)
    }

    fn run_as_non_root(self) -> Option<Problem> {
        if self.has_user_namespace() {
            return None;
        }
        let set = |context: &Value| context.field("runAsNonRoot").as_bool();
        let pod = set(self.context());
        let explicit = self.bad(|container| set(container.field("securityContext")) == Some(false));
        if pod == Some(false) || !explicit.is_empty() {
            let setters = Self::setters(pod == Some(false), &explicit);
            return problem(
                "runAsNonRoot != true",
                format!("{setters} must not set securityContext.runAsNonRoot=false"),
            );
        }
        let implicit = self.bad(|container| set(container.field("securityContext")).is_none());
        if pod == Some(true) || implicit.is_empty() {
            return None;
        }
        let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers_named(&implicit));
        problem("runAsNonRoot != true", detail)
    }

    fn run_as_user(self) -> Option<Problem> {
        if self.has_user_namespace() {
            return None;
        }
        let is_root = |context: &Value| context.field("runAsUser").as_i64() == Some(0);
        let pod = is_root(self.context());
        let bad = self.bad(|container| is_root(container.field("securityContext")));
        if !pod && bad.is_empty() {
            return None;
        }
        problem("runAsUser=0", format!("{} must not set runAsUser=0", Self::setters(pod, &bad)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(level: Level, spec: &Value) -> String {
        details(&evaluate(level, &Value::Null, spec))
    }

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let spec = json!({"containers": [{"name": "c"}]});
        assert_eq!(text(Level::Baseline, &spec), "");
        assert_eq!(
            text(Level::Restricted, &spec),
            "allowPrivilegeEscalation != false (container \"c\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
             securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let hardened = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext":
                {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
            "volumes": [{"name": "v", "emptyDir": {}}]});
        assert_eq!(text(Level::Restricted, &hardened), "");
    }

    #[test]
    fn host_access_is_not_baseline() {
        let spec = json!({"hostNetwork": true, "hostPID": true, "containers": [
            {"name": "a", "ports": [{"hostPort": 80}], "securityContext": {"privileged": true}},
            {"name": "b", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}]});
        assert_eq!(
            text(Level::Baseline, &spec),
            "non-default capabilities (container \"b\" must not include \"SYS_ADMIN\" in \
             securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), hostPath volumes \
             (volume \"v\"), hostPort (container \"a\" uses hostPort 80), privileged (container \"a\" must not set \
             securityContext.privileged=true)"
        );
        assert_eq!(text(Level::Privileged, &spec), "");
    }
}
