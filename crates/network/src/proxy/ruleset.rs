//! What the kernel's services table holds, and the transactions that lead from there to what it should hold.
use super::model::ServiceKey;
use super::plan::{AFFINITY_PREFIX, Fragment, MARK, Set, UdpTargets};
use crate::config::Config;
use crate::names;
use crate::nft::Family;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// The services table of one address family.
pub struct Ruleset {
    family: Family,
    table: String,
    /// The table without any Service.
    skeleton: String,
    fragments: HashMap<ServiceKey, Fragment>,
    /// Who wants an element, with which verdict: the first of them has it. Several Services can name one address.
    claims: BTreeMap<(Set, String), BTreeMap<ServiceKey, Option<String>>>,
    /// Flushed chains that wait for their removal: before Linux 6.2 the kernel releases a chain some time after the
    /// last map element that led there.
    stale: BTreeSet<String>,
}

/// An affinity that a client has: kept over a replacement of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The set.
    pub set: String,
    /// The client's address.
    pub client: String,
    /// Seconds until it ends.
    pub expires: u64,
}

/// Lines of one transaction, by the order in which the kernel must see them.
#[derive(Debug, Default)]
struct Transaction {
    declare: String,
    flush: String,
    rules: String,
    remove: String,
    insert: String,
    drop: String,
}

impl Transaction {
    fn finish(self) -> String {
        let Transaction { declare, flush, rules, remove, insert, drop } = self;
        [declare, flush, rules, remove, insert, drop].concat()
    }
}

impl Ruleset {
    /// An empty table of `family`.
    pub fn new(config: &Config, family: Family) -> Self {
        Ruleset {
            family,
            table: names::services_table(&config.cluster_id),
            skeleton: skeleton(config, family),
            fragments: HashMap::new(),
            claims: BTreeMap::new(),
            stale: BTreeSet::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Sets what each Service needs (`None`: it is gone) and returns the script to get there; empty if nothing changes.
    pub fn update(&mut self, changes: impl IntoIterator<Item = (ServiceKey, Option<Fragment>)>) -> String {
        let mut transaction = Transaction::default();
        for (key, fragment) in changes {
            self.change(&mut transaction, key, fragment);
        }
        transaction.finish()
    }

    /// The script that makes the table from nothing or replaces it, keeping `affinities` that still have a set.
    pub fn replace(&mut self, affinities: &[Affinity]) -> String {
        let fragments = std::mem::take(&mut self.fragments);
        self.claims.clear();
        self.stale.clear();
        let sets: BTreeSet<String> =
            fragments.values().flat_map(|fragment| fragment.affinities.keys().cloned()).collect();
        let mut script = self.skeleton.clone();
        script.push_str(&self.update(fragments.into_iter().map(|(key, fragment)| (key, Some(fragment)))));
        for Affinity { set, client, expires } in affinities.iter().filter(|affinity| sets.contains(&affinity.set)) {
            line(&mut script, format_args!("add element {} {set} {{ {client} expires {expires}s }}", self.place()));
        }
        script
    }

    /// The script that removes the chains which earlier changes left empty, and the chains it is for.
    pub fn sweep(&self) -> Option<(String, Vec<String>)> {
        let chains: Vec<String> = self.stale.iter().cloned().collect();
        let mut script = String::new();
        for chain in &chains {
            line(&mut script, format_args!("delete chain {} {chain}", self.place()));
        }
        (!chains.is_empty()).then_some((script, chains))
    }

    /// Notes that `chains` are gone.
    pub fn swept(&mut self, chains: &[String]) {
        for chain in chains {
            self.stale.remove(chain);
        }
    }

    /// The Services' UDP targets.
    pub fn udp_targets(&self) -> impl Iterator<Item = &UdpTargets> {
        self.fragments.values().flat_map(|fragment| &fragment.udp)
    }

    /// The UDP targets of one Service.
    pub fn udp_targets_of(&self, key: &ServiceKey) -> &[UdpTargets] {
        self.fragments.get(key).map_or(&[], |fragment| &fragment.udp)
    }

    /// The affinities in `listing`, nft's JSON list of all sets.
    pub fn parse_affinities(&self, listing: &str) -> Vec<Affinity> {
        let listing: serde_json::Value = serde_json::from_str(listing).unwrap_or_default();
        let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut affinities = Vec::new();
        for set in objects.iter().map(|object| &object["set"]) {
            let name = set["name"].as_str().unwrap_or_default();
            if set["table"] != self.table || set["family"] != self.family.word() || !name.starts_with(AFFINITY_PREFIX) {
                continue;
            }
            for element in set["elem"].as_array().into_iter().flatten().map(|element| &element["elem"]) {
                if let (Some(client), Some(expires)) = (element["val"].as_str(), element["expires"].as_u64()) {
                    affinities.push(Affinity { set: name.into(), client: client.into(), expires });
                }
            }
        }
        affinities
    }

    fn change(&mut self, transaction: &mut Transaction, key: ServiceKey, fragment: Option<Fragment>) {
        let place = self.place();
        let old = self.fragments.remove(&key).unwrap_or_default();
        let new = fragment.unwrap_or_default();
        for (set, seconds) in &new.affinities {
            match old.affinities.get(set) {
                Some(before) if before == seconds => {}
                before => {
                    if before.is_some() {
                        // Its rules are flushed and written again below, as the timeout of a set is fixed.
                        for chain in old.chains.keys() {
                            line(&mut transaction.declare, format_args!("flush chain {place} {chain}"));
                        }
                        line(&mut transaction.declare, format_args!("delete set {place} {set}"));
                    }
                    let kind = self.family.address_type();
                    line(
                        &mut transaction.declare,
                        format_args!(
                            "add set {place} {set} {{ type {kind}; flags dynamic,timeout; timeout {seconds}s; }}"
                        ),
                    );
                }
            }
        }
        let rewrite =
            old.affinities.iter().any(|(set, seconds)| new.affinities.get(set).is_some_and(|new| new != seconds));
        for (chain, rules) in &new.chains {
            if !rewrite && old.chains.get(chain) == Some(rules) {
                continue;
            }
            line(&mut transaction.declare, format_args!("add chain {place} {chain}"));
            if old.chains.contains_key(chain) || self.stale.remove(chain) {
                line(&mut transaction.flush, format_args!("flush chain {place} {chain}"));
            }
            for rule in rules {
                line(&mut transaction.rules, format_args!("add rule {place} {chain} {rule}"));
            }
        }
        for chain in old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)) {
            line(&mut transaction.flush, format_args!("flush chain {place} {chain}"));
            self.stale.insert(chain.clone());
        }
        for set in old.affinities.keys().filter(|set| !new.affinities.contains_key(*set)) {
            line(&mut transaction.drop, format_args!("delete set {place} {set}"));
        }
        self.change_elements(transaction, &key, &old, &new);
        if new != Fragment::default() {
            self.fragments.insert(key, new);
        }
    }

    fn change_elements(&mut self, transaction: &mut Transaction, key: &ServiceKey, old: &Fragment, new: &Fragment) {
        let place = self.place();
        let touched = old.elements.keys().chain(new.elements.keys()).collect::<BTreeSet<_>>();
        for element in touched {
            if old.elements.get(element) == new.elements.get(element) {
                continue;
            }
            let claims = self.claims.entry(element.clone()).or_default();
            let before = claims.values().next().cloned();
            match new.elements.get(element) {
                Some(verdict) => claims.insert(key.clone(), verdict.clone()),
                None => claims.remove(key),
            };
            let after = claims.values().next().cloned();
            if claims.is_empty() {
                self.claims.remove(element);
            }
            if before == after {
                continue;
            }
            let (set, name) = (element.0.name(), &element.1);
            if before.is_some() {
                line(&mut transaction.remove, format_args!("delete element {place} {set} {{ {name} }}"));
            }
            match after {
                Some(Some(verdict)) => {
                    line(&mut transaction.insert, format_args!("add element {place} {set} {{ {name} : {verdict} }}"));
                }
                Some(None) => line(&mut transaction.insert, format_args!("add element {place} {set} {{ {name} }}")),
                None => {}
            }
        }
    }

    fn place(&self) -> String {
        format!("{} {}", self.family.word(), self.table)
    }
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let written = writeln!(script, "{text}");
    debug_assert!(written.is_ok());
}

/// What [`crate::proxy`] takes for local traffic: the cluster's pods.
pub fn local_pods(config: &Config, family: Family) -> Vec<String> {
    let cidrs = if config.cluster_cidrs.is_empty() { &config.pod_cidrs } else { &config.cluster_cidrs };
    cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family).map(|cidr| cidr.trunc().to_string()).collect()
}

/// TCP is reset rather than told by ICMP, whose errors the kernel sends once a second only.
fn skeleton(config: &Config, family: Family) -> String {
    let table = names::services_table(&config.cluster_id);
    let (ip, addr) = (family.word(), family.address_type());
    let pods = local_pods(config, family);
    // Whoever routes a Service CIDR to this node from outside gets the answer through this node.
    let outside = if pods.is_empty() {
        String::new()
    } else {
        format!("    {ip} daddr @cluster-ips {ip} saddr != {{ {} }} {MARK}\n", pods.join(", "))
    };
    let services: Vec<String> = (config.service_cidrs.iter())
        .filter(|cidr| Family::of(cidr.addr()) == family)
        .map(|cidr| cidr.trunc().to_string())
        .collect();
    let unallocated = if services.is_empty() {
        String::new()
    } else {
        format!("    {ip} daddr {{ {} }} drop\n", services.join(", "))
    };
    format!(
        r#"add table {ip} {table}
delete table {ip} {table}
table {ip} {table} {{
  set cluster-ips {{ type {addr}; }}
  map service-ips {{ type {addr} . inet_proto . inet_service : verdict; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; }}
  map no-endpoint-services {{ type {addr} . inet_proto . inet_service : verdict; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  map firewall-ips {{ type {addr} . inet_proto . inet_service : verdict; }}
  set hairpin-connections {{ type {addr} . {addr} . inet_proto . inet_service; }}
  chain reject-chain {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain services {{
{outside}    {ip} daddr . meta l4proto . th dport vmap @service-ips
    fib daddr type local meta l4proto . th dport vmap @service-nodeports
  }}
  chain service-endpoints-check {{
    {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain nodeport-endpoints-check {{
    fib daddr type local meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain cluster-ips-check {{
    {ip} daddr @cluster-ips goto reject-chain
{unallocated}  }}
  chain firewall-check {{
    {ip} daddr . meta l4proto . th dport vmap @firewall-ips
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
    ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
  }}
  chain filter-prerouting-pre-dnat {{
    type filter hook prerouting priority dstnat - 10; policy accept;
    ct state new jump firewall-check
  }}
  chain filter-output-pre-dnat {{
    type filter hook output priority -110; policy accept;
    ct state new jump firewall-check
  }}
  chain filter-input {{
    type filter hook input priority filter; policy accept;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority filter; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority filter; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset() -> Ruleset {
        Ruleset {
            family: Family::Ip,
            table: "t".into(),
            skeleton: "skeleton\n".into(),
            fragments: HashMap::new(),
            claims: BTreeMap::new(),
            stale: BTreeSet::new(),
        }
    }

    fn key(name: &str) -> ServiceKey {
        ("ns".into(), name.into())
    }

    fn fragment(chain: &str, rule: &str, address: &str) -> Fragment {
        let mut fragment = Fragment::default();
        fragment.chains.insert(chain.into(), vec![rule.into()]);
        fragment.elements.insert((Set::ServiceIps, address.into()), Some(format!("goto {chain}")));
        fragment
    }

    #[test]
    fn only_what_changed_is_programmed() {
        let mut rules = ruleset();
        let script =
            rules.update([(key("a"), Some(fragment("ca", "one", "1"))), (key("b"), Some(fragment("cb", "r", "2")))]);
        assert_eq!(
            script,
            "add chain ip t ca\nadd chain ip t cb\nadd rule ip t ca one\nadd rule ip t cb r\n\
             add element ip t service-ips { 1 : goto ca }\nadd element ip t service-ips { 2 : goto cb }\n"
        );
        assert_eq!(rules.update([(key("a"), Some(fragment("ca", "one", "1")))]), "");
        let script = rules.update([(key("a"), Some(fragment("ca", "two", "1")))]);
        assert_eq!(script, "add chain ip t ca\nflush chain ip t ca\nadd rule ip t ca two\n");
    }

    #[test]
    fn a_removed_service_leaves_its_chains_to_the_sweep() {
        let mut rules = ruleset();
        rules.update([(key("a"), Some(fragment("ca", "one", "1")))]);
        assert_eq!(rules.update([(key("a"), None)]), "flush chain ip t ca\ndelete element ip t service-ips { 1 }\n");
        let (script, chains) = rules.sweep().unwrap();
        assert_eq!(script, "delete chain ip t ca\n");
        // It comes back before the sweep succeeded.
        let script = rules.update([(key("a"), Some(fragment("ca", "one", "1")))]);
        assert!(script.starts_with("add chain ip t ca\nflush chain ip t ca\nadd rule ip t ca one\n"));
        assert!(rules.sweep().is_none());
        rules.swept(&chains);
    }

    #[test]
    fn an_address_of_two_services_stays_with_the_second_when_the_first_goes() {
        let mut rules = ruleset();
        rules.update([(key("a"), Some(fragment("ca", "r", "1")))]);
        let script = rules.update([(key("b"), Some(fragment("cb", "r", "1")))]);
        assert!(!script.contains("element"));
        let script = rules.update([(key("a"), None)]);
        assert!(script.contains("delete element ip t service-ips { 1 }\nadd element ip t service-ips { 1 : goto cb }"));
    }

    #[test]
    fn a_replacement_holds_everything_and_keeps_affinities() {
        let mut rules = ruleset();
        let mut sticky = fragment("ca", "r", "1");
        sticky.affinities.insert("affinity-x".into(), 60);
        rules.update([(key("a"), Some(sticky))]);
        rules.update([(key("gone"), Some(fragment("cg", "r", "2")))]);
        rules.update([(key("gone"), None)]);
        let listing = r#"{"nftables": [{"metainfo": {}}, {"set": {"family": "ip", "name": "affinity-x", "table": "t",
            "elem": [{"elem": {"val": "10.0.0.9", "timeout": 60, "expires": 49}}]}},
            {"set": {"family": "ip", "name": "affinity-y", "table": "other",
            "elem": [{"elem": {"val": "10.0.0.9", "timeout": 60, "expires": 49}}]}}]}"#;
        let affinities = rules.parse_affinities(listing);
        assert_eq!(affinities.len(), 1);
        let script = rules.replace(&affinities);
        assert!(script.starts_with("skeleton\nadd set ip t affinity-x {"));
        assert!(script.contains("goto ca"));
        assert!(!script.contains("cg"));
        assert!(script.ends_with("add element ip t affinity-x { 10.0.0.9 expires 49s }\n"));
        assert!(rules.sweep().is_none());
    }

    #[test]
    fn a_changed_affinity_timeout_makes_the_set_anew() {
        let mut rules = ruleset();
        let mut sticky = fragment("ca", "r", "1");
        sticky.affinities.insert("affinity-x".into(), 60);
        rules.update([(key("a"), Some(sticky.clone()))]);
        sticky.affinities.insert("affinity-x".into(), 90);
        let script = rules.update([(key("a"), Some(sticky))]);
        assert!(script.starts_with("flush chain ip t ca\ndelete set ip t affinity-x\nadd set ip t affinity-x"));
        assert!(script.contains("add rule ip t ca r"));
    }
}
