//! What is sealed is so on disk, and plain for whoever reads.
#![allow(clippy::unwrap_used, reason = "test helpers")]
use pintle_store::embedded::{EmbeddedStore, Options};
use pintle_store::seal::AesGcm;
use pintle_store::{Compare, Op, Store};
use std::sync::Arc;

const SECRET: &[u8] = b"/registry/secrets/a/b";

async fn put(store: &EmbeddedStore, key: &'static [u8], value: &'static [u8]) {
    let compare = Compare { key: key.into(), mod_revision: 0 };
    let op = Op::Put { key: key.into(), value: value.into(), stamp: None };
    store.txn(vec![compare], vec![op]).await.unwrap();
}

#[tokio::test]
async fn secrets_are_encrypted_in_the_file_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let seal = || Some(Arc::new(AesGcm::new(&[1; 32], &["/registry/secrets/"]).unwrap()) as _);
    let sealed = Options { seal: seal(), ..Options::default() };
    let before = EmbeddedStore::open(&path, &Options::default()).unwrap();
    put(&before, b"/registry/secrets/a/old", b"from before").await;
    before.close();
    let store = EmbeddedStore::open(&path, &sealed).unwrap();
    let mut watch = store.watch(b"/registry/secrets/", store.revision()).unwrap();
    put(&store, SECRET, b"very hidden").await;
    assert_eq!(&watch.next().await.unwrap()[0].current.as_ref().unwrap().value[..], b"very hidden");
    assert_eq!(&store.get(SECRET).await.unwrap().unwrap().value[..], b"very hidden");
    store.close();
    let file = std::fs::read(&path).unwrap();
    assert!(!file.windows(11).any(|part| part == b"very hidden"));
    let again = EmbeddedStore::open(&path, &sealed).unwrap();
    assert_eq!(&again.get(SECRET).await.unwrap().unwrap().value[..], b"very hidden");
    assert_eq!(&again.get(b"/registry/secrets/a/old").await.unwrap().unwrap().value[..], b"from before");
    again.close();
    let other = Options { seal: Some(Arc::new(AesGcm::new(&[2; 32], &[]).unwrap())), ..Options::default() };
    assert!(EmbeddedStore::open(&path, &other).is_err());
}
