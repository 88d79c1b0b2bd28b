//! Whatever a client sends on a SPDY connection, it ends, and what came of it fits into what was sent.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_runtime::spdy;
use std::sync::LazyLock;
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

fuzz_target!(|sent: &[u8]| {
    RUNTIME.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut streams = spdy::serve(server);
        client.write_all(sent).await.expect("room for it");
        client.shutdown().await.expect("the write side ends");
        // All streams are read at the same time: one that nobody reads holds up the connection, as it must.
        let mut readers = JoinSet::new();
        while let Some(mut stream) = streams.recv().await {
            readers.spawn(async move {
                let mut received = 0;
                while let Some(data) = stream.incoming.recv().await {
                    received += data.len();
                }
                received
            });
        }
        let received: usize = readers.join_all().await.into_iter().sum();
        assert!(received <= sent.len());
    });
});
