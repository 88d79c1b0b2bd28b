//! Network namespaces for tests: a "machine" of its own per test, with pods in further namespaces.
use nix::sched::{CloneFlags, setns, unshare};
use pintle_network::{Config, Network};
use pintle_runtime::pod_network::{Attachment, PodNetwork, PortMapping};
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Runs `test` on a thread in a new network namespace; the namespace and all in it go away with the thread.
pub fn on_machine<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs a command in the calling thread's namespace.
pub fn run(program: &str, arguments: &str) -> String {
    let output = std::process::Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace.
#[derive(Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    pub fn new() -> Self {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Netns(Arc::new(std::thread::spawn(open).join().unwrap()))
    }

    /// The calling thread's.
    pub fn current() -> Self {
        Netns(Arc::new(File::open("/proc/thread-self/ns/net").unwrap()))
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Runs `work` on a thread inside.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    /// Starts `work` on a thread inside.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let netns = self.0.clone();
        std::thread::spawn(move || {
            setns(&*netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

/// The cluster of the tests.
pub fn config(data_dir: &std::path::Path) -> Config {
    Config {
        cluster_id: "0123abcd".into(),
        node_name: "node".into(),
        pod_cidrs: vec!["10.77.0.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.77.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.78.0.0/16".parse().unwrap()],
        neighbours: vec![],
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        mtu: 1500,
        data_dir: data_dir.to_owned(),
    }
}

/// [`config`] with both families.
pub fn dual_stack(data_dir: &std::path::Path) -> Config {
    let mut config = config(data_dir);
    config.pod_cidrs.push("fd00:77::/64".parse().unwrap());
    config.cluster_cidrs.push("fd00:77::/56".parse().unwrap());
    config.service_cidrs.push("fd00:78::/112".parse().unwrap());
    config
}

/// A pod that is attached to a network.
pub struct Pod {
    pub netns: Netns,
    pub attachment: Attachment,
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    pub async fn attach(network: &Network, name: &str) -> Self {
        Self::with_ports(network, name, vec![]).await
    }

    pub async fn with_ports(network: &Network, name: &str, port_mappings: Vec<PortMapping>) -> Self {
        let attachment = Attachment {
            sandbox_id: format!("sandbox-{name}"),
            namespace: "default".into(),
            name: name.into(),
            port_mappings,
            ..Attachment::default()
        };
        let netns = Netns::new();
        let addresses = network.setup(&netns.path(), &attachment).await.unwrap();
        Pod { netns, attachment, addresses }
    }

    pub fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Answers every TCP connection to `port` with "<name> <the client's address>".
    pub fn serve_tcp(&self, port: u16) {
        serve_tcp(&self.netns, &self.attachment.name, port);
    }

    /// Answers every UDP datagram to `port` likewise.
    pub fn serve_udp(&self, port: u16) {
        let name = self.attachment.name.clone();
        let socket = self
            .netns
            .run(move || UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port))))
            .unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(format!("{name} {}", from.ip().to_canonical()).as_bytes(), from).ok();
            }
        });
    }
}

/// Answers every TCP connection to `port` in `netns` with "<name> <the client's address>".
pub fn serve_tcp(netns: &Netns, name: &str, port: u16) {
    let name = name.to_owned();
    let listener =
        netns.run(move || TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let Ok(from) = stream.peer_addr() else { continue };
            write!(stream, "{name} {}", from.ip().to_canonical()).ok();
        }
    });
}

/// What answers at `address` from the calling thread's namespace.
pub fn ask_tcp(address: impl Into<SocketAddr>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The same over UDP, from a fresh port.
pub fn ask_udp(address: impl Into<SocketAddr>) -> std::io::Result<String> {
    let address = address.into();
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    ask_udp_on(&UdpSocket::bind((any, 0))?, address)
}

/// The same over UDP from `socket`.
pub fn ask_udp_on(socket: &UdpSocket, address: SocketAddr) -> std::io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A neighbour of the machine on a link `up0`: the machine is 192.0.2.1, the neighbour 192.0.2.2 with a route for all.
pub fn outside() -> Netns {
    let netns = Netns::new();
    ip("link add up0 type veth peer name far0");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("link set up0 up");
    let here = std::process::id();
    let raw = netns.0.as_raw_fd();
    ip(&format!("link set far0 netns /proc/{here}/fd/{raw}"));
    netns.run(|| {
        ip("link set lo up");
        ip("addr add 192.0.2.2/24 dev far0");
        ip("link set far0 up");
    });
    netns
}
