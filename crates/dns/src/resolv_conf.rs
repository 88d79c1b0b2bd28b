//! The host's resolvers, from `/etc/resolv.conf`.
use std::net::{IpAddr, SocketAddr};

/// resolv.conf(5): more are ignored.
const MAX_SERVERS: usize = 3;

/// The name servers of a resolver configuration, except `own`: asking oneself never ends.
pub fn name_servers(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // A zone (`fe80::1%eth0`) is resolved by the system.
    let addresses = servers.filter_map(|word| match word.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, 53)),
        Err(_) => format!("[{word}]:53").parse().ok(),
    });
    addresses.take(MAX_SERVERS).filter(|address| !own.contains(address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_other_lines_are_skipped_and_oneself_is_never_asked() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 10.96.0.10\nnameserver\t192.0.2.1\n\
                    options ndots:2\nnameserver fd00::1 # second\nnameserver nonsense\n";
        let own = ["10.96.0.10:53".parse().unwrap()];
        let expected: Vec<SocketAddr> = vec!["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text, &own), expected);
    }
}
