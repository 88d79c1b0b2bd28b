//! SIGKILL in the middle of load loses no acknowledged write. The test runs itself as the victim: a process that writes
//! from several tasks and says each acknowledged write on its standard output.
#![allow(clippy::unwrap_used)]
use pintle_store::embedded::Options;
use pintle_store::{EmbeddedStore, Op, Store, TxnOutcome};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const KILLS: u32 = 200;
const WRITERS: u32 = 8;
const VICTIM: &str = "PINTLE_STORE_CRASH_VICTIM";

#[test]
fn no_acknowledged_write_is_lost_by_sigkill() {
    if let Some(path) = std::env::var_os(VICTIM) {
        return victim(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let (mut acknowledged, mut revision) = (BTreeMap::<String, u64>::new(), 0);
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "no_acknowledged_write_is_lost_by_sigkill", "--nocapture"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // After so many acknowledgements the kill falls at another point of the write path each time.
        let enough = 1 + (round as usize * 37) % 150;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acks: Vec<String> = Vec::new();
        for line in lines.by_ref() {
            let line = line.unwrap();
            if line.starts_with("ack ") {
                acks.push(line);
            }
            if acks.len() >= enough {
                break;
            }
        }
        child.kill().unwrap();
        acks.extend(lines.map_while(Result::ok).filter(|line| line.starts_with("ack ") && line.ends_with(" .")));
        child.wait().unwrap();
        assert!(acks.len() >= enough, "round {round}: the victim ended early");
        for ack in acks {
            let mut words = ack.split(' ').skip(1);
            let (key, at) = (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap());
            acknowledged.insert(key, at);
            revision = revision.max(at);
        }
        let store = EmbeddedStore::open(&path, &Options::default()).unwrap();
        assert!(store.revision() >= revision, "round {round}: the revision went back");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (key, at) in &acknowledged {
            let kv = runtime
                .block_on(store.get(key.as_bytes()))
                .unwrap()
                .unwrap_or_else(|| panic!("round {round}: {key} is lost"));
            // The last acknowledged write, or a later one whose acknowledgement the kill cut off.
            assert!(kv.mod_revision >= *at, "round {round}: {key} went back");
            assert!(kv.value.starts_with(format!("{}:", kv.mod_revision).as_bytes()), "round {round}: {key} is torn");
        }
    }
}

fn victim(path: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(EmbeddedStore::open(path, &Options::default()).unwrap());
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            writers.spawn(async move {
                for n in 0u64.. {
                    let key = format!("/load/{writer}/{}", n % 20);
                    let value = format!(":{}", "v".repeat(700));
                    let put = Op::Put { key: key.clone().into(), value: value.into(), stamp: Some(0) };
                    let Ok(TxnOutcome::Committed(at)) = store.txn(vec![], vec![put]).await else { panic!("refused") };
                    let line = format!("ack {key} {at} .\n");
                    // One write call: whole lines only, and none once the parent is gone.
                    if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
        while writers.join_next().await.is_some() {}
    });
}
