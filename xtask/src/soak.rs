//! `cargo xtask soak`: pods are created, crashed, probed and deleted at random while the server is killed again and again.
//! At the end every pod must be what it was made to become, and after the last one is deleted nothing of it may be left.
//! Run it as root in a network namespace of its own that has an address and a default route.
mod census;
mod pods;

use crate::cluster::Cluster;
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use pods::Sort;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const IMAGE: &str = "pintle.dev/soak/busybox:1";
/// How long the cluster may take to settle after the last disturbance.
const SETTLE: Duration = Duration::from_secs(180);

/// How long, and how rough.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pintle's binary.
    #[arg(long, default_value = "target/x86_64-unknown-linux-gnu/release/pintle")]
    pintle: PathBuf,
    /// How long pods come and go, in seconds.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// How often the server is killed, in seconds.
    #[arg(long, default_value_t = 60)]
    kill: u64,
    /// How many pods there are at most.
    #[arg(long, default_value_t = 30)]
    pods: usize,
    /// Where the random choices begin; the same number makes the same choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Random numbers that can be had again (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize;
        high % sides.max(1)
    }
}

/// Runs the soak; fails if anything is wrong or left.
pub fn run(args: &Args) -> Result<()> {
    let cluster = Cluster::new(&args.pintle)?;
    cluster.up()?;
    cluster.load_busybox(IMAGE, &["sh", "sleep", "cat", "test", "true", "touch", "mkdir"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { Soak::begin(args, &cluster).await?.run().await });
    if outcome.is_err() {
        let kept = std::env::temp_dir().join(format!("pintle-soak-{}.log", args.seed));
        std::fs::copy(cluster.data().join("pintle.log"), &kept)?;
        eprintln!("the server's log is kept as {}", kept.display());
    }
    outcome
}

struct Soak<'a> {
    args: &'a Args,
    cluster: &'a Cluster,
    pods: Api<Pod>,
    dice: Dice,
    /// The pods that are there, and what they are to become.
    alive: BTreeMap<String, Sort>,
    made: usize,
    kills: usize,
    /// Containers and shims that were killed.
    ended: usize,
}

impl<'a> Soak<'a> {
    async fn begin(args: &'a Args, cluster: &'a Cluster) -> Result<Self> {
        if args.seed == 0 {
            bail!("--seed is a number from 1 on");
        }
        let client = cluster.client().await?;
        pods::prepare(client.clone()).await?;
        let pods = Api::namespaced(client, "default");
        Ok(Soak { args, cluster, pods, dice: Dice(args.seed), alive: BTreeMap::new(), made: 0, kills: 0, ended: 0 })
    }

    async fn run(mut self) -> Result<()> {
        // One pod came and went: what is made once for all pods is there.
        self.create().await?;
        self.settle().await?;
        self.clear().await?;
        let before = census::take(&self.cluster.data())?;
        let end = Instant::now() + Duration::from_secs(self.args.seconds);
        let mut kill = Instant::now() + Duration::from_secs(self.args.kill);
        while Instant::now() < end {
            if Instant::now() >= kill {
                self.restart().await?;
                kill = Instant::now() + Duration::from_secs(self.args.kill);
            }
            self.step().await?;
            tokio::time::sleep(Duration::from_millis(50 + self.dice.roll(400) as u64)).await;
        }
        self.settle().await?;
        println!(
            "{} pods made, the server killed {} times, {} shims and containers; {} pods are what they should be",
            self.made,
            self.kills,
            self.ended,
            self.alive.len()
        );
        self.clear().await?;
        self.nothing_is_left(&before).await
    }

    async fn step(&mut self) -> Result<()> {
        match self.dice.roll(10) {
            0..=4 if self.alive.len() < self.args.pods => self.create().await,
            5..=7 if !self.alive.is_empty() => {
                let at = self.dice.roll(self.alive.len());
                let name = self.alive.keys().nth(at).cloned().unwrap_or_default();
                self.alive.remove(&name);
                let grace = [0, 1, 30][self.dice.roll(3)];
                self.pods.delete(&name, &DeleteParams::default().grace_period(grace)).await?;
                Ok(())
            }
            8 => {
                let victims = census::victims(&self.cluster.data())?;
                self.ended += usize::from(census::kill_one_of(&victims, self.dice.roll(usize::MAX)));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn create(&mut self) -> Result<()> {
        let sort = Sort::ALL[self.dice.roll(Sort::ALL.len())];
        self.made += 1;
        let name = format!("{}-{}", sort.name(), self.made);
        self.pods.create(&PostParams::default(), &pods::pod(&name, sort)?).await?;
        self.alive.insert(name, sort);
        Ok(())
    }

    /// Ends the server as a crash would, and starts it again.
    async fn restart(&mut self) -> Result<()> {
        let pid = self.cluster.pid()?;
        crate::cluster::run(Command::new("kill").args(["-9", &pid.to_string()]))?;
        self.kills += 1;
        self.cluster.up()?;
        self.pods = Api::namespaced(self.cluster.client().await?, "default");
        Ok(())
    }

    /// Waits until every pod is what it was made to become.
    async fn settle(&self) -> Result<()> {
        let end = Instant::now() + SETTLE;
        loop {
            let found = self.pods.list(&ListParams::default()).await?.items;
            let mut wrong: Vec<String> = found
                .iter()
                .filter_map(|pod| {
                    let name = pod.metadata.name.clone().unwrap_or_default();
                    match self.alive.get(&name) {
                        Some(sort) => sort.complaint(pod).map(|complaint| format!("{name}: {complaint}")),
                        None => Some(format!("{name} should be gone")),
                    }
                })
                .collect();
            let names: Vec<&String> = found.iter().filter_map(|pod| pod.metadata.name.as_ref()).collect();
            wrong.extend(
                self.alive.keys().filter(|name| !names.contains(name)).map(|name| format!("{name} is missing")),
            );
            if wrong.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("after {} s without a disturbance:\n{}", SETTLE.as_secs(), wrong.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn clear(&mut self) -> Result<()> {
        self.pods.delete_collection(&DeleteParams::default().grace_period(1), &ListParams::default()).await?;
        self.alive.clear();
        self.settle().await
    }

    async fn nothing_is_left(&self, before: &census::Census) -> Result<()> {
        let end = Instant::now() + SETTLE;
        loop {
            let left = before.more_in(&census::take(&self.cluster.data())?);
            if left.is_empty() {
                println!("nothing is left: {before}");
                return Ok(());
            }
            if Instant::now() > end {
                bail!("left after all pods are gone:\n{}", left.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed| {
            let mut dice = Dice(seed);
            (0..20).map(|_| dice.roll(10)).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
        assert!(choices(7).iter().any(|choice| *choice > 4));
    }
}
