//! The embedded store behaves as a plain map that remembers every revision, whatever is done to it in whatever order.
#![allow(clippy::unwrap_used)]
use bytes::Bytes;
use pintle_store::embedded::Options;
use pintle_store::{Compare, EmbeddedStore, Error, Op, Store, TxnOutcome};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One step against store and model.
#[derive(Clone, Debug)]
enum Step {
    /// Puts (`Some(length)`) and deletes; the compares name a key and whether to expect its right revision.
    Txn {
        ops: Vec<(u8, Option<u8>)>,
        compares: Vec<(u8, bool)>,
    },
    /// Lists `from..to` with a limit, so many revisions back.
    Range {
        from: u8,
        to: u8,
        limit: usize,
        back: u64,
    },
    /// Watches a prefix from so many revisions back, to the newest.
    Watch {
        prefix: u8,
        back: u64,
    },
    Compact {
        back: u64,
    },
    Reopen,
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let txn = (
        prop::collection::vec((0..12u8, prop::option::of(0..40u8)), 1..4),
        prop::collection::vec((0..12u8, prop::bool::weighted(0.8)), 0..3),
    );
    prop_oneof![
        10 => txn.prop_map(|(ops, compares)| Step::Txn { ops, compares }),
        4 => (0..12u8, 0..13u8, 0..6usize, 0..12u64).prop_map(|(from, to, limit, back)| Step::Range { from, to, limit, back }),
        3 => (0..3u8, 0..12u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0..6u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Snapshot),
    ]
}

fn key(n: u8) -> Bytes {
    format!("/{}/{n:02}", n / 4).into()
}

/// Value, create revision, mod revision.
type Live = BTreeMap<Bytes, (Bytes, u64, u64)>;

struct Model {
    /// The state at each revision, the first being `oldest`.
    states: BTreeMap<u64, Live>,
    revision: u64,
    oldest: u64,
}

impl Model {
    fn now(&self) -> &Live {
        &self.states[&self.revision]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn store_equals_model(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut store = EmbeddedStore::open(&path, &Options::default()).unwrap();
    let mut model = Model { states: BTreeMap::from([(0, Live::new())]), revision: 0, oldest: 0 };
    for step in steps {
        match step {
            Step::Txn { ops, compares } => txn(&store, &mut model, ops, compares).await?,
            Step::Range { from, to, limit, back } => {
                let at = model.revision.saturating_sub(back);
                let got = store.range(&key(from), &key(to), limit, Some(at)).await;
                let Some(state) = model.states.get(&at).filter(|_| at >= model.oldest) else {
                    let compacted = matches!(got, Err(Error::Compacted { .. }));
                    prop_assert!(compacted);
                    continue;
                };
                let all: Vec<_> = state.iter().filter(|(k, _)| **k >= key(from) && **k < key(to)).collect();
                let wanted = if limit == 0 { all.len() } else { limit.min(all.len()) };
                let got = got.unwrap();
                prop_assert_eq!(got.remaining, all.len() - wanted);
                prop_assert_eq!(got.revision, at);
                let got: Vec<_> = got
                    .items
                    .iter()
                    .map(|kv| (&kv.key, kv.value.clone(), kv.create_revision, kv.mod_revision))
                    .collect();
                let all: Vec<_> = all[..wanted].iter().map(|(k, (v, c, m))| (*k, v.clone(), *c, *m)).collect();
                prop_assert_eq!(got, all);
            }
            Step::Watch { prefix, back } => watch(&store, &model, prefix, back).await?,
            Step::Compact { back } => {
                let at = model.revision.saturating_sub(back);
                let done = store.compact(at).await;
                prop_assert_eq!(done.is_ok(), at >= model.oldest);
                model.oldest = model.oldest.max(at);
            }
            Step::Reopen => {
                drop(store);
                store = EmbeddedStore::open(&path, &Options::default()).unwrap();
                model.oldest = model.revision;
            }
            Step::Snapshot => {
                let copy = dir.path().join(format!("copy-{}", model.revision));
                if !copy.exists() {
                    prop_assert_eq!(store.snapshot(&copy).await.unwrap(), model.revision);
                    compare_live(&EmbeddedStore::open(&copy, &Options::default()).unwrap(), &model).await?;
                }
            }
        }
        prop_assert_eq!(store.revision(), model.revision);
    }
    compare_live(&store, &model).await
}

async fn compare_live(store: &EmbeddedStore, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(store.revision(), model.revision);
    let all = store.range(b"", b"\xff", 0, None).await.unwrap();
    let got: Live = all.items.into_iter().map(|kv| (kv.key, (kv.value, kv.create_revision, kv.mod_revision))).collect();
    prop_assert_eq!(&got, model.now());
    for (name, (value, ..)) in model.now() {
        prop_assert_eq!(&store.get(name).await.unwrap().unwrap().value, value);
    }
    Ok(())
}

async fn txn(
    store: &EmbeddedStore,
    model: &mut Model,
    ops: Vec<(u8, Option<u8>)>,
    compares: Vec<(u8, bool)>,
) -> Result<(), TestCaseError> {
    let before = model.now().clone();
    let compares: Vec<_> = compares
        .into_iter()
        .map(|(n, right)| Compare {
            key: key(n),
            mod_revision: before.get(&key(n)).map_or(0, |v| v.2) + u64::from(!right) * 1000,
        })
        .collect();
    let holds = compares.iter().all(|c| before.get(&c.key).map_or(0, |v| v.2) == c.mod_revision);
    let revision = model.revision + 1;
    let (mut after, mut changed, mut wanted) = (before.clone(), false, Vec::new());
    for (n, length) in ops {
        let key = key(n);
        match length {
            Some(length) => {
                let text = "x".repeat(usize::from(length));
                let create = after.get(&key).map_or(revision, |v| v.1);
                after.insert(key.clone(), (format!("<{revision}>{text}").into(), create, revision));
                wanted.push(Op::Put { key, value: format!("<>{text}").into(), stamp: Some(1) });
                changed = true;
            }
            None => {
                changed |= after.remove(&key).is_some();
                wanted.push(Op::Delete { key });
            }
        }
    }
    match store.txn(compares.clone(), wanted).await.unwrap() {
        TxnOutcome::Committed(at) => {
            prop_assert!(holds);
            if changed {
                model.revision = revision;
                model.states.insert(revision, after);
            }
            prop_assert_eq!(at, model.revision);
        }
        TxnOutcome::Conflict(current) => {
            prop_assert!(!holds);
            let current: Vec<_> = current.into_iter().map(|kv| kv.map(|kv| kv.mod_revision)).collect();
            prop_assert_eq!(current, compares.iter().map(|c| before.get(&c.key).map(|v| v.2)).collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// Replays the watch over the state it starts from and must arrive at the newest one.
async fn watch(store: &EmbeddedStore, model: &Model, prefix: u8, back: u64) -> Result<(), TestCaseError> {
    let (after, prefix) = (model.revision.saturating_sub(back), format!("/{prefix}/"));
    let mut watch = match store.watch(prefix.as_bytes(), after) {
        Ok(watch) => watch,
        Err(error) => {
            let compacted = matches!(error, Error::Compacted { .. });
            prop_assert!(compacted && after < model.oldest, "{}", error);
            return Ok(());
        }
    };
    prop_assert!(after >= model.oldest);
    let of = |live: &Live| {
        live.iter()
            .filter(|(k, _)| k.starts_with(prefix.as_bytes()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Live>()
    };
    let (mut replayed, newest) = (of(&model.states[&after]), of(model.now()));
    let changes = (after..model.revision).any(|r| of(&model.states[&r]) != of(&model.states[&(r + 1)]));
    if changes {
        let mut last = after;
        for event in watch.next().await.unwrap() {
            prop_assert!(event.revision >= last && event.key.starts_with(prefix.as_bytes()));
            last = event.revision;
            let previous = event.previous.map(|kv| (kv.value, kv.create_revision, kv.mod_revision));
            prop_assert_eq!(replayed.remove(&event.key), previous);
            if let Some(kv) = event.current {
                replayed.insert(kv.key, (kv.value, kv.create_revision, kv.mod_revision));
            }
        }
    }
    prop_assert_eq!(replayed, newest);
    Ok(())
}

#[tokio::test]
async fn a_watch_that_lags_is_cut_off_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { watch_lag: 8, ..Options::default() };
    let store = EmbeddedStore::open(&dir.path().join("store.redb"), &options).unwrap();
    let (mut lagging, mut quick) = (store.watch(b"/", 0).unwrap(), store.watch(b"/", 0).unwrap());
    for n in 0..10 {
        let put = Op::Put { key: format!("/{n}").into(), value: Bytes::new(), stamp: None };
        store.txn(vec![], vec![put]).await.unwrap();
        assert_eq!(quick.next().await.unwrap().len(), 1);
    }
    assert!(matches!(lagging.next().await, Err(Error::Compacted { .. })));
}

#[tokio::test]
async fn history_is_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_bytes: 64 << 10, ..Options::default() };
    let store = EmbeddedStore::open(&dir.path().join("store.redb"), &options).unwrap();
    for _ in 0..100 {
        let put = Op::Put { key: "/k".into(), value: vec![0; 4096].into(), stamp: None };
        store.txn(vec![], vec![put]).await.unwrap();
    }
    assert!(matches!(store.range(b"/", b"0", 0, Some(50)).await, Err(Error::Compacted { .. })));
    assert_eq!(store.range(b"/", b"0", 0, Some(99)).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = EmbeddedStore::open(&path, &Options::default()).unwrap();
    let put = Op::Put { key: "/k".into(), value: "needle-in-the-file".into(), stamp: None };
    store.txn(vec![], vec![put]).await.unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|window| window == b"needle").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = EmbeddedStore::open(&path, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("damaged") && error.contains("Restore a snapshot"), "{error}");
    let garbage = dir.path().join("garbage.redb");
    std::fs::write(&garbage, b"not a database").unwrap();
    assert!(matches!(EmbeddedStore::open(&garbage, &Options::default()), Err(Error::Corrupt(_))));
    assert_eq!(std::fs::read(&garbage).unwrap(), b"not a database");
}
