//! Notices when somebody else removes Pintle's tables, as `nft flush ruleset` and reloads of firewalls do.
use crate::nft::{self, Family};
use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};
use std::io;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Pause after the subscription failed.
const RETRY: Duration = Duration::from_secs(1);
/// The multicast group of changes to nftables.
const NFNLGRP_NFTABLES: u32 = 7;
/// Subsystem nftables, message "table deleted".
const NFT_MSG_DELTABLE: u16 = (10 << 8) | 2;

/// A subscription to removals of tables in the namespace it was opened in.
pub struct TableWatch {
    socket: AsyncFd<Socket>,
}

impl TableWatch {
    /// Subscribes.
    #[allow(unsafe_code)]
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.add_membership(NFNLGRP_NFTABLES)?;
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor, never replaces it, and lives in the AsyncFd until that is dropped.
        Ok(TableWatch { socket: unsafe { AsyncFd::register(socket)? } })
    }

    /// Waits until a table was removed, or may have been.
    pub async fn removed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut buffer = Vec::with_capacity(8192);
            match ready.try_io(|socket| {
                buffer.clear();
                socket.get_ref().recv(&mut buffer, 0)
            }) {
                Ok(Ok(_)) if has_removal(&buffer) => return Ok(()),
                // Too many changes at once: some were not told.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }
}

/// Waits until a table was removed.
pub async fn removed(watch: Option<&TableWatch>) {
    match watch {
        Some(watch) => {
            if let Err(error) = watch.removed().await {
                tracing::warn!(%error, "a removal of nftables may have gone unnoticed");
                tokio::time::sleep(RETRY).await;
            }
        }
        None => std::future::pending().await,
    }
}

/// Whether a datagram of netlink messages tells of a removed table.
fn has_removal(mut datagram: &[u8]) -> bool {
    while let Some(header) = datagram.first_chunk::<8>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if u16::from_ne_bytes([header[4], header[5]]) == NFT_MSG_DELTABLE {
            return true;
        }
        datagram = datagram.get(length.max(16).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Whether the table exists.
pub async fn exists(family: Family, table: &str) -> Result<bool, nft::Error> {
    let listing: serde_json::Value =
        serde_json::from_str(&nft::query(&["-j", "list", "tables"]).await?).unwrap_or_default();
    let mut tables = listing["nftables"].as_array().into_iter().flatten().map(|object| &object["table"]);
    Ok(tables.any(|found| found["family"] == family.word() && found["name"] == table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_found_anywhere_in_a_datagram() {
        let message = |kind: u16| [&20u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 14]].concat();
        assert!(!has_removal(&[message(NFT_MSG_DELTABLE - 2), message(NFT_MSG_DELTABLE + 1)].concat()));
        assert!(has_removal(&[message(NFT_MSG_DELTABLE - 2), message(NFT_MSG_DELTABLE)].concat()));
        assert!(!has_removal(&[0; 8]));
        assert!(!has_removal(&[]));
    }
}
