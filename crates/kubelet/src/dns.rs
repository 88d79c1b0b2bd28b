//! Names inside a pod: resolver configuration by `dnsPolicy`, hostname and domain, `/etc/hosts`.
// upstream: pkg/kubelet/network/dns; pkg/kubelet, GeneratePodHostNameAndDomain and managedHostsFileContent
use crate::config::Config;
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{HostAlias, Pod};
use pintle_runtime::cri::DnsConfig;
use std::path::Path;

/// First line of a hosts file that the kubelet made.
const MANAGED: &str = "# Kubernetes-managed hosts file.\n";
const MANAGED_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
/// Most characters of a kernel hostname.
const HOSTNAME_MAX: usize = 63;

/// The resolver configuration of `pod`.
pub fn resolver(pod: &Pod, config: &Config) -> DnsConfig {
    let spec = pod.pod_spec();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    } && !config.cluster_dns.is_empty();
    let mut dns = if policy == "None" {
        DnsConfig::default()
    } else {
        parse(&std::fs::read_to_string(&config.resolv_conf).unwrap_or_default())
    };
    if cluster {
        let domain = &config.cluster_domain;
        let own = [format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()];
        dns.servers = config.cluster_dns.iter().map(ToString::to_string).collect();
        dns.searches = unique(own.into_iter().chain(dns.searches));
        dns.options = vec!["ndots:5".to_owned()];
    }
    if let Some(custom) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        dns.servers = unique(dns.servers.into_iter().chain(custom.nameservers.clone().unwrap_or_default()));
        dns.searches = unique(dns.searches.into_iter().chain(custom.searches.clone().unwrap_or_default()));
        for option in custom.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            dns.options.retain(|known| known.split(':').next() != Some(name));
            dns.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    dns
}

fn unique(items: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all = Vec::new();
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}

/// A `resolv.conf` in CRI's terms.
fn parse(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(ToOwned::to_owned)),
            Some("search") => dns.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect(),
            Some("options") => dns.options = words.map(ToOwned::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

/// The pod's hostname, and its domain when it has a subdomain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.pod_spec();
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.clone()) {
        return (name, String::new());
    }
    let given = spec.and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let hostname = given.unwrap_or_else(|| truncate(pod.name())).to_owned();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
    let domain = subdomain.map(|sub| format!("{sub}.{}.svc.{cluster_domain}", pod.namespace())).unwrap_or_default();
    (hostname, domain)
}

fn truncate(name: &str) -> &str {
    if name.len() <= HOSTNAME_MAX {
        return name;
    }
    name.get(..HOSTNAME_MAX).unwrap_or(name).trim_end_matches(['-', '.'])
}

/// The hostname the kernel gets: the full name when `setHostnameAsFQDN` asks for it.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (hostname, domain) = hostname(pod, cluster_domain);
    let full = pod.pod_spec().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    if !full || domain.is_empty() {
        return Ok(hostname);
    }
    let name = format!("{hostname}.{domain}");
    if name.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long (64 characters is \
             the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(name)
}

/// Content of the pod's `/etc/hosts`.
pub fn hosts_file(pod: &Pod, pod_ips: &[String], cluster_domain: &str, host_file: &Path) -> String {
    let mut text = if pod.host_network() {
        let host = std::fs::read_to_string(host_file).unwrap_or_default();
        format!("{MANAGED_HOST_NETWORK}{host}")
    } else {
        let (hostname, domain) = hostname(pod, cluster_domain);
        let names = if domain.is_empty() { hostname } else { format!("{hostname}.{domain}\t{hostname}") };
        let mut text = format!(
            "{MANAGED}127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        );
        for ip in pod_ips {
            text.push_str(&format!("{ip}\t{names}\n"));
        }
        text
    };
    let aliases = pod.pod_spec().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        aliases.iter().for_each(|alias| text.push_str(&alias_line(alias)));
    }
    text
}

fn alias_line(alias: &HostAlias) -> String {
    format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn config(dir: &tempfile_dir::Dir) -> Config {
        let mut config = Config::new("n", "192.0.2.1".parse().unwrap(), "/nowhere");
        config.cluster_dns = vec!["10.0.0.10".parse().unwrap()];
        config.resolv_conf = dir.file("nameserver 192.0.2.53\nsearch example.org\noptions edns0\n");
        config
    }

    /// A file in the target's temporary directory that goes away with the value.
    mod tempfile_dir {
        use std::path::PathBuf;
        pub struct Dir(PathBuf);
        impl Dir {
            pub fn new(name: &str) -> Self {
                let path = std::env::temp_dir().join(format!("pintle-dns-{}-{name}", std::process::id()));
                std::fs::create_dir_all(&path).unwrap();
                Dir(path)
            }
            pub fn file(&self, text: &str) -> PathBuf {
                let path = self.0.join("resolv.conf");
                std::fs::write(&path, text).unwrap();
                path
            }
        }
        impl Drop for Dir {
            fn drop(&mut self) {
                std::fs::remove_dir_all(&self.0).unwrap();
            }
        }
    }

    #[test]
    fn cluster_first_asks_the_cluster_then_the_hosts_domains() {
        let dir = tempfile_dir::Dir::new("cluster");
        let dns = resolver(&pod(json!({"containers": []})), &config(&dir));
        assert_eq!(dns.servers, ["10.0.0.10"]);
        assert_eq!(dns.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"]);
        assert_eq!(dns.options, ["ndots:5"]);
    }

    #[test]
    fn none_takes_only_what_the_pod_says() {
        let dir = tempfile_dir::Dir::new("none");
        let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.2.3.4"], "searches": ["x.y"], "options": [{"name": "ndots", "value": "2"}]}});
        let dns = resolver(&pod(spec), &config(&dir));
        assert_eq!(
            (dns.servers, dns.searches, dns.options),
            (vec!["1.2.3.4".to_owned()], vec!["x.y".to_owned()], vec!["ndots:2".to_owned()])
        );
    }

    #[test]
    fn host_network_pods_use_the_hosts_resolver() {
        let dir = tempfile_dir::Dir::new("host");
        let dns = resolver(&pod(json!({"containers": [], "hostNetwork": true})), &config(&dir));
        assert_eq!(dns.servers, ["192.0.2.53"]);
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let spec =
            json!({"containers": [], "subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let text = hosts_file(&pod(spec), &["10.1.0.5".into()], "cluster.local", Path::new("/etc/hosts"));
        assert!(text.contains("10.1.0.5\tweb-0.web.ns.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
