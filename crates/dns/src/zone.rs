//! Answers for the cluster's domain and its addresses, from an [`State`]: a pure function of both.
//!
//! Follows "Kubernetes DNS-Based Service Discovery", version 1.1; where that is silent, CoreDNS's kubernetes plugin.
use crate::index::{EndpointRecord, Port, State, dashed};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Seconds that clients may keep an answer, positive or negative.
pub const TTL: u32 = 5;
/// Version of the specification, served as `dns-version.<domain>`.
const SPECIFICATION: &str = "1.1.0";

/// The cluster's domain.
pub struct Zone {
    domain: Name,
}

/// What there is to say on a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name exists; without records, it has none of the type asked for.
    Found {
        /// Direct answers.
        answers: Vec<Record>,
        /// Addresses of names in the answers.
        additionals: Vec<Record>,
    },
    /// The name does not exist.
    NxDomain,
    /// The name stands for another, whose records are wanted as well.
    Alias {
        /// The CNAME record.
        record: Box<Record>,
        /// The other name.
        target: Name,
    },
    /// The name is not the cluster's: others may know it.
    NotOurs,
}

impl Answer {
    fn empty() -> Self {
        Answer::Found { answers: vec![], additionals: vec![] }
    }
}

impl Zone {
    /// The zone of `domain`, an absolute name in lower case.
    pub fn new(domain: Name) -> Self {
        Zone { domain }
    }

    /// The record that accompanies negative answers.
    pub fn soa(&self) -> Record {
        let (mname, rname) = (self.below(&["ns", "dns"]), self.below(&["hostmaster"]));
        let soa = SOA::new(mname.unwrap_or_default(), rname.unwrap_or_default(), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// What `state` says of `name`.
    pub fn answer(&self, state: &State, name: &Name, kind: RecordType) -> Answer {
        if self.domain.zone_of(name) {
            let own = usize::from(name.num_labels() - self.domain.num_labels());
            let labels: Option<Vec<String>> = name
                .iter()
                .take(own)
                .map(|label| std::str::from_utf8(label).map(str::to_ascii_lowercase).ok())
                .collect();
            let labels: Vec<&str> = labels.iter().flatten().map(String::as_str).collect();
            if labels.len() != own {
                return Answer::NxDomain;
            }
            return Query { zone: self, state, name, kind }.forward(&labels);
        }
        match reverse_address(name) {
            Some(ip) => self.reverse(state, name, kind, ip),
            None => Answer::NotOurs,
        }
    }

    fn reverse(&self, state: &State, name: &Name, kind: RecordType, ip: IpAddr) -> Answer {
        let mut targets = BTreeSet::new();
        if let Some((namespace, service)) = state.service_at(ip) {
            targets.extend(self.service_name(namespace, service));
        } else {
            for (namespace, service) in state.services_with_endpoint(ip) {
                for endpoint in state.endpoints(namespace, service).filter(|endpoint| endpoint.ip == ip) {
                    targets.extend(self.endpoint_name(namespace, service, endpoint));
                }
            }
        }
        if targets.is_empty() {
            return Answer::NotOurs;
        }
        if kind != RecordType::PTR {
            return Answer::empty();
        }
        let record = |target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)));
        Answer::Found { answers: targets.into_iter().map(record).collect(), additionals: vec![] }
    }

    fn service_name(&self, namespace: &str, service: &str) -> Option<Name> {
        self.below(&[service, namespace, "svc"])
    }

    fn endpoint_name(&self, namespace: &str, service: &str, endpoint: &EndpointRecord) -> Option<Name> {
        self.below(&[&endpoint.label, service, namespace, "svc"])
    }

    /// A name of the zone; `None` if the labels make none (too long).
    fn below(&self, labels: &[&str]) -> Option<Name> {
        let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        name.append_domain(&self.domain).ok()
    }
}

/// A question about a name below the cluster's domain.
struct Query<'a> {
    zone: &'a Zone,
    state: &'a State,
    name: &'a Name,
    kind: RecordType,
}

impl Query<'_> {
    /// `labels` are those before the domain, in lower case.
    fn forward(&self, labels: &[&str]) -> Answer {
        match labels {
            [] => self.apex(),
            ["svc" | "pod" | "dns"] => Answer::empty(),
            ["dns-version"] => match self.kind {
                RecordType::TXT => self.records([RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))]),
                _ => Answer::empty(),
            },
            ["ns", "dns"] => self.service("kube-system", "kube-dns"),
            [namespace, "svc" | "pod"] if self.state.has_namespace(namespace) => Answer::empty(),
            [ip, namespace, "pod"] => self.pod(ip, namespace),
            [service, namespace, "svc"] => self.service(namespace, service),
            // A prefix of names that may exist.
            [protocol, service, namespace, "svc"] if protocol.starts_with('_') => {
                match self.state.service(namespace, service) {
                    Some(record) if record.external_name.is_none() => Answer::empty(),
                    _ => Answer::NxDomain,
                }
            }
            [label, service, namespace, "svc"] => self.endpoint(label, namespace, service),
            [port, protocol, service, namespace, "svc"] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => self.port(port, protocol, namespace, service),
                _ => Answer::NxDomain,
            },
            _ => Answer::NxDomain,
        }
    }

    fn apex(&self) -> Answer {
        match self.kind {
            RecordType::SOA => Answer::Found { answers: vec![self.zone.soa()], additionals: vec![] },
            RecordType::NS => self.records(self.zone.below(&["ns", "dns"]).map(|name| RData::NS(NS(name)))),
            _ => Answer::empty(),
        }
    }

    /// `1-2-3-4.<namespace>.pod`: the address that the name says.
    fn pod(&self, ip: &str, namespace: &str) -> Answer {
        let dots = ip.replace('-', ".").parse::<std::net::Ipv4Addr>().map(IpAddr::V4);
        let colons = || ip.replace('-', ":").parse::<std::net::Ipv6Addr>().map(IpAddr::V6);
        match dots.or_else(|_| colons()) {
            Ok(ip) if self.state.has_namespace(namespace) => self.addresses([ip]),
            _ => Answer::NxDomain,
        }
    }

    fn service(&self, namespace: &str, service: &str) -> Answer {
        let Some(record) = self.state.service(namespace, service) else { return Answer::NxDomain };
        if let Some(target) = &record.external_name {
            return self.alias(target);
        }
        if record.cluster_ips.is_empty() {
            let endpoints: Vec<&EndpointRecord> = self.state.endpoints(namespace, service).collect();
            if endpoints.is_empty() {
                return Answer::NxDomain;
            }
            return match self.kind {
                RecordType::SRV => self.endpoint_ports(namespace, service, &endpoints, |_| true),
                _ => self.addresses(endpoints.iter().map(|endpoint| endpoint.ip)),
            };
        }
        match self.kind {
            RecordType::SRV => self.service_ports(namespace, service, &record.cluster_ips, record.ports.iter()),
            _ => self.addresses(record.cluster_ips.iter().copied()),
        }
    }

    fn endpoint(&self, label: &str, namespace: &str, service: &str) -> Answer {
        let all = self.state.endpoints(namespace, service);
        // An endpoint with a host name is also known by its address.
        let named: Vec<&EndpointRecord> =
            all.filter(|endpoint| endpoint.label == label || dashed(endpoint.ip) == label).collect();
        if named.is_empty() || self.state.service(namespace, service).is_none() {
            return Answer::NxDomain;
        }
        match self.kind {
            RecordType::SRV => self.endpoint_ports(namespace, service, &named, |_| true),
            _ => self.addresses(named.iter().map(|endpoint| endpoint.ip)),
        }
    }

    /// `_<port>._<protocol>.<service>.<namespace>.svc`
    fn port(&self, port: &str, protocol: &str, namespace: &str, service: &str) -> Answer {
        let Some(record) = self.state.service(namespace, service) else { return Answer::NxDomain };
        let wanted = |candidate: &Port| candidate.name == port && candidate.protocol == protocol;
        if record.cluster_ips.is_empty() {
            let endpoints = self.state.endpoints(namespace, service);
            let with: Vec<&EndpointRecord> = endpoints.filter(|endpoint| endpoint.ports.iter().any(wanted)).collect();
            return match self.kind {
                _ if with.is_empty() => Answer::NxDomain,
                RecordType::SRV => self.endpoint_ports(namespace, service, &with, wanted),
                _ => self.addresses(with.iter().map(|endpoint| endpoint.ip)),
            };
        }
        let ports: Vec<&Port> = record.ports.iter().filter(|port| wanted(port)).collect();
        match self.kind {
            _ if ports.is_empty() => Answer::NxDomain,
            RecordType::SRV => self.service_ports(namespace, service, &record.cluster_ips, ports.into_iter()),
            _ => self.addresses(record.cluster_ips.iter().copied()),
        }
    }

    fn service_ports<'p>(
        &self,
        namespace: &str,
        service: &str,
        ips: &[IpAddr],
        ports: impl Iterator<Item = &'p Port>,
    ) -> Answer {
        let Some(target) = self.zone.service_name(namespace, service) else { return Answer::empty() };
        let answers = ports.map(|port| self.srv(port, &target)).collect();
        Answer::Found { answers, additionals: ips.iter().map(|ip| address(&target, *ip)).collect() }
    }

    fn endpoint_ports(
        &self,
        namespace: &str,
        service: &str,
        endpoints: &[&EndpointRecord],
        wanted: impl Fn(&Port) -> bool,
    ) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let Some(target) = self.zone.endpoint_name(namespace, service, endpoint) else { continue };
            for port in endpoint.ports.iter().filter(|port| wanted(port)) {
                let record = self.srv(port, &target);
                // The two families of one endpoint share their name.
                if !answers.contains(&record) {
                    answers.push(record);
                }
            }
            additionals.push(address(&target, endpoint.ip));
        }
        Answer::Found { answers, additionals }
    }

    fn srv(&self, port: &Port, target: &Name) -> Record {
        Record::from_rdata(self.name.clone(), TTL, RData::SRV(SRV::new(0, 100, port.number, target.clone())))
    }

    fn alias(&self, target: &str) -> Answer {
        let Ok(mut target) = Name::from_ascii(target) else { return Answer::empty() };
        target.set_fqdn(true);
        let record = Record::from_rdata(self.name.clone(), TTL, RData::CNAME(CNAME(target.clone())));
        if self.kind == RecordType::CNAME {
            return Answer::Found { answers: vec![record], additionals: vec![] };
        }
        Answer::Alias { record: Box::new(record), target }
    }

    /// Those of `ips` that the question is for.
    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>) -> Answer {
        let wanted = |ip: &IpAddr| match self.kind {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        };
        let ips: BTreeSet<IpAddr> = ips.into_iter().filter(wanted).collect();
        let answers = ips.into_iter().map(|ip| address(self.name, ip)).collect();
        Answer::Found { answers, additionals: vec![] }
    }

    fn records(&self, data: impl IntoIterator<Item = RData>) -> Answer {
        let answers = data.into_iter().map(|data| Record::from_rdata(self.name.clone(), TTL, data)).collect();
        Answer::Found { answers, additionals: vec![] }
    }
}

fn address(name: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::ServiceRecord;
    use RecordType::{A as TypeA, AAAA as TypeAaaa, PTR as TypePtr, SRV as TypeSrv, TXT as TypeTxt};

    fn port(name: &str, number: u16) -> Port {
        Port { name: name.into(), protocol: "tcp".into(), number }
    }

    fn endpoint(ip: &str, hostname: Option<&str>) -> EndpointRecord {
        let ip = ip.parse().unwrap();
        let label = hostname.map_or_else(|| dashed(ip), str::to_owned);
        EndpointRecord { ip, label, ports: vec![port("sql", 5432)].into() }
    }

    fn state() -> State {
        let mut state = State::default();
        state.set_namespace("shop", true);
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let web = ServiceRecord {
            cluster_ips: vec!["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            external_name: None,
            ports: vec![port("http", 80), port("admin", 8080)],
        };
        state.set_service(key("web"), Some(web));
        state.set_endpoints(&key("web"), "web-1", vec![endpoint("10.1.0.9", None)]);
        state.set_service(key("db"), Some(ServiceRecord { ports: vec![port("sql", 5432)], ..Default::default() }));
        let members = vec![endpoint("10.1.0.3", Some("db-0")), endpoint("10.1.0.4", None)];
        state.set_endpoints(&key("db"), "db-1", members);
        state.set_service(key("none"), Some(ServiceRecord::default()));
        let far = ServiceRecord { external_name: Some("db.example.org".into()), ..Default::default() };
        state.set_service(key("far"), Some(far));
        state
    }

    fn ask(name: &str, kind: RecordType) -> Answer {
        let mut domain = Name::from_ascii("cluster.local").unwrap();
        domain.set_fqdn(true);
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        Zone::new(domain).answer(&state(), &name, kind)
    }

    /// The answers' data as text.
    fn data(name: &str, kind: RecordType) -> Vec<String> {
        match ask(name, kind) {
            Answer::Found { answers, .. } => answers.iter().map(|record| record.data.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn services_have_addresses_in_both_families() {
        assert_eq!(data("web.shop.svc.cluster.local", TypeA), ["10.96.0.7"]);
        assert_eq!(data("web.shop.svc.cluster.local", TypeAaaa), ["fd00::7"]);
        assert_eq!(data("WEB.Shop.svc.CLUSTER.local", TypeA), ["10.96.0.7"]);
        assert_eq!(data("web.shop.svc.cluster.local", TypeTxt), [""; 0]);
    }

    #[test]
    fn names_that_do_not_exist_differ_from_names_without_such_records() {
        for name in [
            "nothing.shop.svc",
            "web.nowhere.svc",
            "nowhere.svc",
            "nowhere.pod",
            "web.shop.svc.cluster.local.shop.svc",
            "example.com",
            "none.shop.svc",
            "_http._udp.web.shop.svc",
            "x._tcp.web.shop.svc",
            "1-2-3-4.nowhere.pod",
            "1-2-3.shop.pod",
            "db-9.db.shop.svc",
        ] {
            assert_eq!(ask(&format!("{name}.cluster.local"), TypeA), Answer::NxDomain, "{name}");
        }
        for name in ["svc.", "pod.", "shop.svc.", "shop.pod.", "", "_tcp.web.shop.svc."] {
            assert_eq!(ask(&format!("{name}cluster.local"), TypeA), Answer::empty(), "{name}");
        }
        assert_eq!(ask("example.com", TypeA), Answer::NotOurs);
        assert_eq!(ask("cluster.local.example.com", TypeA), Answer::NotOurs);
    }

    #[test]
    fn headless_services_have_their_endpoints() {
        assert_eq!(data("db.shop.svc.cluster.local", TypeA), ["10.1.0.3", "10.1.0.4"]);
        assert_eq!(data("db-0.db.shop.svc.cluster.local", TypeA), ["10.1.0.3"]);
        assert_eq!(data("10-1-0-4.db.shop.svc.cluster.local", TypeA), ["10.1.0.4"]);
        assert_eq!(data("db-0.db.shop.svc.cluster.local", TypeAaaa), [""; 0]);
    }

    #[test]
    fn ports_are_found_by_name() {
        let answer = ask("_http._tcp.web.shop.svc.cluster.local", TypeSrv);
        let Answer::Found { answers, additionals } = answer else { panic!("{answer:?}") };
        assert_eq!(answers[0].data.to_string(), "0 100 80 web.shop.svc.cluster.local.");
        assert_eq!((answers.len(), additionals.len()), (1, 2));
        assert_eq!(
            data("_sql._tcp.db.shop.svc.cluster.local", TypeSrv),
            ["0 100 5432 db-0.db.shop.svc.cluster.local.", "0 100 5432 10-1-0-4.db.shop.svc.cluster.local."]
        );
        assert_eq!(data("web.shop.svc.cluster.local", TypeSrv).len(), 2);
    }

    #[test]
    fn addresses_lead_back_to_names() {
        assert_eq!(data("7.0.96.10.in-addr.arpa", TypePtr), ["web.shop.svc.cluster.local."]);
        assert_eq!(data("3.0.1.10.in-addr.arpa", TypePtr), ["db-0.db.shop.svc.cluster.local."]);
        assert_eq!(data("9.0.1.10.in-addr.arpa", TypePtr), ["10-1-0-9.web.shop.svc.cluster.local."]);
        let v6 = format!("7.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(data(&v6, TypePtr), ["web.shop.svc.cluster.local."]);
        assert_eq!(ask("1.1.1.1.in-addr.arpa", TypePtr), Answer::NotOurs);
    }

    #[test]
    fn pods_are_known_by_their_address_in_existing_namespaces() {
        assert_eq!(data("10-1-0-3.shop.pod.cluster.local", TypeA), ["10.1.0.3"]);
        assert_eq!(data("fd00--3.shop.pod.cluster.local", TypeAaaa), ["fd00::3"]);
    }

    #[test]
    fn an_external_name_is_an_alias() {
        let Answer::Alias { record, target } = ask("far.shop.svc.cluster.local", TypeA) else { panic!() };
        assert_eq!((record.record_type(), target.to_string()), (RecordType::CNAME, "db.example.org.".into()));
        assert_eq!(data("far.shop.svc.cluster.local", RecordType::CNAME), ["db.example.org."]);
    }

    #[test]
    fn what_goes_is_forgotten() {
        let mut state = state();
        let key = ("shop".to_owned(), "db".to_owned());
        state.set_endpoints(&key, "db-1", vec![]);
        state.set_service(("shop".into(), "web".into()), None);
        assert!(state.services_with_endpoint("10.1.0.3".parse().unwrap()).is_empty());
        assert!(state.service_at("10.96.0.7".parse().unwrap()).is_none());
        assert_eq!(state.endpoints("shop", "db").count(), 0);
    }

    #[test]
    fn the_version_of_the_specification_is_told() {
        assert_eq!(data("dns-version.cluster.local", TypeTxt), ["1.1.0"]);
    }
}
