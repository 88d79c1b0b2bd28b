//! Firewalls of others on the host: Pintle leaves their tables alone, and says what stands in the pods' way.
use crate::{names, nft};
use serde_json::Value;

/// What of other programs' nftables drops pods' packets unless its own rules say otherwise: one line for people for
/// each chain.
pub async fn obstacles(cluster_id: &str) -> Result<Vec<String>, nft::Error> {
    let listing = nft::query(&["-j", "list", "chains"]).await?;
    Ok(find(&serde_json::from_str(&listing).unwrap_or_default(), cluster_id))
}

fn find(listing: &Value, cluster_id: &str) -> Vec<String> {
    let chains = listing["nftables"].as_array().into_iter().flatten().map(|object| &object["chain"]);
    let mut lines = Vec::new();
    for chain in chains.filter(|chain| chain["policy"] == "drop") {
        let text = |field: &str| chain[field].as_str().unwrap_or_default();
        let what = match text("hook") {
            "forward" => "between pods and to other hosts",
            "input" => "from pods to this host (cluster DNS)",
            _ => continue,
        };
        if text("table").starts_with("pintle-") || text("family") == "bridge" {
            continue;
        }
        lines.push(format!(
            "the firewall chain \"{} {} {}\" drops packets {what} unless a rule there accepts them; \
             allow the interfaces {}*, for example: iptables -I {} -i {}+ -j ACCEPT",
            text("family"),
            text("table"),
            text("name"),
            names::link_prefix(cluster_id),
            text("name"),
            names::link_prefix(cluster_id),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chain(table: &str, hook: &str, policy: &str) -> Value {
        json!({"chain": {"family": "ip", "table": table, "name": "C", "hook": hook, "policy": policy}})
    }

    #[test]
    fn foreign_chains_that_drop_by_default_are_told() {
        let listing = json!({"nftables": [
            {"metainfo": {}},
            chain("filter", "forward", "drop"),
            chain("filter", "input", "accept"),
            chain("filter", "output", "drop"),
            chain("pintle-0123abcd", "forward", "drop"),
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER"}},
        ]});
        let found = find(&listing, "0123abcd");
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("\"ip filter C\"") && found[0].contains("pt0123abcd+"));
        assert!(find(&Value::Null, "0123abcd").is_empty());
    }
}
