//! The nft table of the policies, and the scripts that lead from one state of it to another.
use super::plan::{Desired, NamedSet};
use crate::config::Config;
use crate::names;
use crate::nft::Family;
use crate::table_watch;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const EGRESS: &str = "egress-pods";
const INGRESS: &str = "ingress-pods";

/// The policies' table of one family.
pub struct PolicyTable {
    place: String,
    skeleton: String,
    current: Desired,
    /// Flushed chains to delete once the kernel lets go of them.
    stale: BTreeSet<String>,
}

impl PolicyTable {
    /// The table of `family`, nothing known of it yet.
    pub fn new(config: &Config, family: Family) -> Self {
        let table = names::policy_table(&config.cluster_id);
        let place = format!("{} {table}", family.word());
        let skeleton = skeleton(config, family, &place);
        PolicyTable { place, skeleton, current: Desired::default(), stale: BTreeSet::new() }
    }

    /// Whether the kernel still has the table, if it should.
    pub async fn intact(&self, family: Family) -> bool {
        let table = self.place.rsplit(' ').next().unwrap_or_default();
        self.current == Desired::default() || matches!(table_watch::exists(family, table).await, Ok(true))
    }

    /// The script that makes the table hold `desired` whatever is there.
    pub fn replace(&mut self, desired: &Desired) -> String {
        self.current = Desired::default();
        self.stale.clear();
        let mut script = format!("add table {}\ndelete table {}\n", self.place, self.place);
        // Without policies there is no table, and packets pay nothing.
        if *desired != Desired::default() {
            script.push_str(&self.skeleton);
            script.push_str(&self.difference(desired));
        }
        self.current = desired.clone();
        script
    }

    /// The script from the table as it was last programmed to `desired`; empty if they are the same.
    pub fn update(&mut self, desired: &Desired) -> String {
        if *desired == self.current {
            return String::new();
        }
        if *desired == Desired::default() || self.current == Desired::default() {
            return self.replace(desired);
        }
        let script = self.difference(desired);
        self.current = desired.clone();
        script
    }

    /// The script that deletes chains which were left empty.
    pub fn sweep(&self) -> Option<String> {
        let line = |chain: &String| format!("delete chain {} {chain}\n", self.place);
        (!self.stale.is_empty()).then(|| self.stale.iter().map(line).collect())
    }

    /// Notes that the sweep succeeded.
    pub fn swept(&mut self) {
        self.stale.clear();
    }

    fn difference(&mut self, desired: &Desired) -> String {
        let place = self.place.clone();
        let (mut declare, mut flush, mut rules, mut remove, mut insert, mut drop) =
            (String::new(), String::new(), String::new(), String::new(), String::new(), String::new());
        for (name, set) in &desired.sets {
            if !self.current.sets.contains_key(name) {
                line(&mut declare, format_args!("add set {place} {name} {{ type {}; }}", set.kind));
            }
        }
        for (chain, wanted) in &desired.chains {
            let known = self.current.chains.get(chain);
            if known == Some(wanted) {
                continue;
            }
            line(&mut declare, format_args!("add chain {place} {chain}"));
            if self.stale.remove(chain) || known.is_some() {
                line(&mut flush, format_args!("flush chain {place} {chain}"));
            }
            for rule in wanted {
                line(&mut rules, format_args!("add rule {place} {chain} {rule}"));
            }
        }
        for chain in self.current.chains.keys().filter(|chain| !desired.chains.contains_key(*chain)) {
            line(&mut flush, format_args!("flush chain {place} {chain}"));
            self.stale.insert(chain.clone());
        }
        for name in self.current.sets.keys().filter(|name| !desired.sets.contains_key(*name)) {
            line(&mut drop, format_args!("delete set {place} {name}"));
        }
        let empty = NamedSet::default();
        for (name, set) in &desired.sets {
            let before = self.current.sets.get(name).unwrap_or(&empty);
            elements(&mut remove, &mut insert, &place, name, &before.elements, &set.elements);
        }
        let verdicts = |map: &BTreeMap<String, String>| -> BTreeMap<String, Option<String>> {
            map.iter().map(|(ip, verdict)| (ip.clone(), Some(verdict.clone()))).collect()
        };
        for (name, before, after) in
            [(EGRESS, &self.current.egress, &desired.egress), (INGRESS, &self.current.ingress, &desired.ingress)]
        {
            elements(&mut remove, &mut insert, &place, name, &verdicts(before), &verdicts(after));
        }
        [declare, flush, rules, remove, insert, drop].concat()
    }
}

fn elements(
    remove: &mut String,
    insert: &mut String,
    place: &str,
    set: &str,
    before: &BTreeMap<String, Option<String>>,
    after: &BTreeMap<String, Option<String>>,
) {
    for key in before.keys().filter(|key| before.get(*key) != after.get(*key)) {
        line(remove, format_args!("delete element {place} {set} {{ {key} }}"));
    }
    for (key, verdict) in after.iter().filter(|(key, verdict)| before.get(*key) != Some(*verdict)) {
        let verdict = verdict.as_ref().map(|verdict| format!(" : {verdict}")).unwrap_or_default();
        line(insert, format_args!("add element {place} {set} {{ {key}{verdict} }}"));
    }
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let written = writeln!(script, "{text}");
    debug_assert!(written.is_ok());
}

/// Connections that were admitted go on. What the node itself sends to its pods is not judged (probes have to work).
fn skeleton(config: &Config, family: Family, place: &str) -> String {
    let (ip, addr) = (family.word(), family.address_type());
    let links = names::link_prefix(&config.cluster_id);
    format!(
        r#"table {place} {{
  map {EGRESS} {{ type {addr} : verdict; }}
  map {INGRESS} {{ type {addr} : verdict; }}
  chain forward {{
    type filter hook forward priority filter + 10; policy accept;
    ct state established,related accept
    {ip} saddr vmap @{EGRESS}
    {ip} daddr vmap @{INGRESS}
  }}
  chain input {{
    type filter hook input priority filter + 10; policy accept;
    ct state established,related accept
    iifname "{links}*" {ip} saddr vmap @{EGRESS}
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> PolicyTable {
        PolicyTable {
            place: "ip t".into(),
            skeleton: "skeleton\n".into(),
            current: Desired::default(),
            stale: BTreeSet::new(),
        }
    }

    fn desired(members: &[&str]) -> Desired {
        let elements = members.iter().map(|ip| ((*ip).to_owned(), None)).collect();
        Desired {
            sets: [("pods-x".to_owned(), NamedSet { kind: "ipv4_addr".into(), elements })].into(),
            chains: [("ingress-a".to_owned(), vec!["ip saddr @pods-x return".to_owned(), "drop".to_owned()])].into(),
            egress: BTreeMap::new(),
            ingress: [("10.0.0.1".to_owned(), "jump ingress-a".to_owned())].into(),
        }
    }

    #[test]
    fn the_table_exists_only_with_policies() {
        let mut table = table();
        assert_eq!(table.replace(&Desired::default()), "add table ip t\ndelete table ip t\n");
        assert!(table.update(&desired(&["10.0.0.2"])).contains("skeleton\nadd set ip t pods-x { type ipv4_addr; }"));
        assert_eq!(table.update(&Desired::default()), "add table ip t\ndelete table ip t\n");
    }

    #[test]
    fn a_new_pod_is_one_element() {
        let mut table = table();
        table.replace(&desired(&["10.0.0.2"]));
        assert_eq!(table.update(&desired(&["10.0.0.2", "10.0.0.3"])), "add element ip t pods-x { 10.0.0.3 }\n");
        assert_eq!(table.update(&desired(&["10.0.0.2", "10.0.0.3"])), "");
    }

    #[test]
    fn a_pod_that_is_free_again_loses_its_chain_in_a_later_sweep() {
        let mut table = table();
        let mut both = desired(&["10.0.0.2"]);
        both.chains.insert("ingress-b".into(), vec!["drop".into()]);
        both.ingress.insert("10.0.0.2".into(), "jump ingress-b".into());
        table.replace(&both);
        let script = table.update(&desired(&["10.0.0.2"]));
        assert_eq!(script, "flush chain ip t ingress-b\ndelete element ip t ingress-pods { 10.0.0.2 }\n");
        assert_eq!(table.sweep().unwrap(), "delete chain ip t ingress-b\n");
    }
}
