//! Runs scripts of the `nft` command: each script is one transaction of the kernel, applied whole or not at all.
use std::io;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why a transaction was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `nft` in the PATH.
    #[error("the nft command was not found; install the nftables package")]
    Missing,
    /// It could not be run.
    #[error("cannot run nft: {0}")]
    Run(#[from] io::Error),
    /// It refused the script; nothing was changed.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Applies `script` atomically.
pub async fn apply(script: &str) -> Result<(), Error> {
    run(&["-f", "-"], script).await.map(drop)
}

/// What `nft` prints with `arguments`.
pub async fn query(arguments: &[&str]) -> Result<String, Error> {
    run(arguments, "").await
}

async fn run(arguments: &[&str], input: &str) -> Result<String, Error> {
    let spawned = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(false)
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing),
        other => other?,
    };
    let mut stdin = child.stdin.take();
    let feed = async {
        match stdin.take() {
            // A child that stops reading has failed: its own message says why.
            Some(mut stdin) => match stdin.write_all(input.as_bytes()).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    };
    let (fed, output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect();
        return Err(Error::Refused(message));
    }
    fed?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An address family's words in nft's language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Family::Ip } else { Family::Ip6 }
    }

    /// `ip` or `ip6`: the table's family and the header's name.
    pub fn word(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }

    /// The type of an address in sets.
    pub fn address_type(self) -> &'static str {
        match self {
            Family::Ip => "ipv4_addr",
            Family::Ip6 => "ipv6_addr",
        }
    }
}
