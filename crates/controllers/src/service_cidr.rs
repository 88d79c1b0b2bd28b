//! The ServiceCIDR controller: a range is kept until no Service has an address that only it contains. The decision is
//! [`decide`]. (upstream: pkg/controller/servicecidrs)
use crate::Context;
use crate::claim::name;
use crate::conditions;
use crate::error::{Error, unless_not_found};
use crate::node_lifecycle::positive;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Api, Patch, PatchParams, PostParams};
use pintle_client::WorkQueue;
use pintle_client::informer::Change;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 1;
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// So long after its deletion the allocators may still give addresses of a range.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
const READY: (&str, &str, &str) = ("True", "", "Kubernetes Service CIDR is ready");
const TERMINATING: (&str, &str, &str) = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
);

/// What to do about a range.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is used: it must have the finalizer and be ready.
    Keep,
    /// Its deletion waits for addresses to go.
    Block,
    /// Its deletion waits so long.
    Wait(SignedDuration),
    /// It may go.
    Release,
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let listed = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    listed.filter_map(|text| text.parse().ok()).collect()
}

/// Decides about `cidr` among `all` ranges, of which `addresses` are given.
fn decide(cidr: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr], now: Timestamp) -> Step {
    let Some(deleted) = &cidr.metadata.deletion_timestamp else { return Step::Keep };
    let others: Vec<IpNet> =
        all.iter().filter(|other| name(other.as_ref()) != name(cidr)).flat_map(|other| ranges(other)).collect();
    let own = ranges(cidr);
    let covered = own.iter().all(|range| others.iter().any(|other| other.contains(range)));
    let orphaned = addresses.iter().any(|address| {
        own.iter().any(|range| range.contains(address)) && !others.iter().any(|other| other.contains(address))
    });
    if !covered && orphaned {
        return Step::Block;
    }
    let left = GRACE - now.duration_since(deleted.0);
    if left.is_positive() { Step::Wait(left) } else { Step::Release }
}

fn has_finalizer(cidr: &ServiceCIDR) -> bool {
    cidr.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("service-cidrs-controller");
    let (cidrs, addresses) = (cx.informers.of::<ServiceCIDR>(), cx.informers.of::<IPAddress>());
    let queue = WorkQueue::<String>::new();
    // A change of one range can matter to every other that is being deleted.
    let (added, known) = (queue.clone(), cidrs.clone());
    cidrs.on_change(move |change| {
        added.add(name(change.object().as_ref()).to_owned());
        let ending = known.list().into_iter().filter(|cidr| cidr.metadata.deletion_timestamp.is_some());
        ending.for_each(|cidr| added.add(name(cidr.as_ref()).to_owned()));
    });
    let (added, known) = (queue.clone(), cidrs.clone());
    addresses.on_change(move |change| {
        if matches!(change, Change::Deleted(_)) {
            let ending = known.list().into_iter().filter(|cidr| cidr.metadata.deletion_timestamp.is_some());
            ending.for_each(|cidr| added.add(name(cidr.as_ref()).to_owned()));
        }
    });
    tokio::join!(cidrs.synced(), addresses.synced());
    queue
        .run("service-cidr", WORKERS, cx.stop, move |named| {
            let (client, cidrs, addresses) = (client.clone(), cidrs.clone(), addresses.clone());
            async move {
                let Some(cidr) = cidrs.get("", &named) else { return Ok::<_, Error>(None::<Duration>) };
                let given: Vec<IpAddr> =
                    addresses.list().iter().filter_map(|address| name(address.as_ref()).parse().ok()).collect();
                let api: Api<ServiceCIDR> = Api::all(client);
                let params = PatchParams::default();
                match decide(&cidr, &cidrs.list(), &given, Timestamp::now()) {
                    Step::Wait(left) => return Ok(Some(positive(left))),
                    Step::Release if has_finalizer(&cidr) => {
                        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
                        unless_not_found(api.patch(&named, &params, &Patch::Strategic(patch)).await)?;
                    }
                    Step::Release => {}
                    Step::Block => say(&api, &cidr, TERMINATING).await?,
                    Step::Keep if !has_finalizer(&cidr) => {
                        let patch = json!({"metadata": {"finalizers": [FINALIZER]}});
                        // The change comes back and then makes it ready.
                        unless_not_found(api.patch(&named, &params, &Patch::Strategic(patch)).await)?;
                    }
                    Step::Keep => say(&api, &cidr, READY).await?,
                }
                Ok(None)
            }
        })
        .await;
}

async fn say(api: &Api<ServiceCIDR>, cidr: &ServiceCIDR, what: (&str, &str, &str)) -> Result<(), Error> {
    let mut updated = cidr.clone();
    let listed = updated.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions::set(listed, "Ready", what, None, Timestamp::now()) {
        unless_not_found(api.replace_status(name(cidr), &PostParams::default(), &updated).await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(named: &str, range: &str, deleted: bool) -> Arc<ServiceCIDR> {
        let at = deleted.then_some("1970-01-01T00:00:00Z");
        let object = json!({"metadata": {"name": named, "deletionTimestamp": at}, "spec": {"cidrs": [range]}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_range_stays_while_an_address_has_no_other() {
        let now = Timestamp::from_second(60).unwrap();
        let (going, other) = (cidr("a", "10.0.0.0/24", true), cidr("b", "10.0.0.0/28", false));
        let all = [going.clone(), other.clone()];
        assert_eq!(decide(&other, &all, &[], now), Step::Keep);
        assert_eq!(decide(&going, &all, &["10.0.0.200".parse().unwrap()], now), Step::Block);
        assert_eq!(decide(&going, &all, &["10.0.0.2".parse().unwrap()], now), Step::Release);
        let early = Timestamp::from_second(4).unwrap();
        assert_eq!(decide(&going, &all, &[], early), Step::Wait(SignedDuration::from_secs(6)));
        let wide = [going.clone(), cidr("c", "10.0.0.0/16", false)];
        assert_eq!(decide(&going, &wide, &["10.0.0.200".parse().unwrap()], now), Step::Release);
    }
}
