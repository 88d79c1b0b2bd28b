//! Questions for others: the host's resolvers, asked over UDP with TCP behind it, and a bounded cache of their answers.
use crate::resolv_conf::name_servers;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Each resolver is asked this often.
const ROUNDS: usize = 2;
/// Questions under way at once; more are refused.
const CONCURRENCY: usize = 512;
/// The longest time an answer is kept.
const MAX_TTL: u32 = 30;
/// Answers kept: two generations of this many.
const GENERATION: usize = 2048;
/// The resolver configuration is read again after this.
const REREAD: Duration = Duration::from_secs(5);
/// What fits into one unfragmented datagram (DNS flag day 2020).
const PAYLOAD: u16 = 1232;

/// A question to others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in lower case.
    pub name: Name,
    /// The type.
    pub kind: RecordType,
    /// Whether signatures are wanted too.
    pub dnssec: bool,
}

/// What others answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The outcome.
    pub code: ResponseCode,
    /// Records that answer.
    pub answers: Vec<Record>,
    /// Where the answer comes from; on negative answers the SOA.
    pub authorities: Vec<Record>,
    /// Further records.
    pub additionals: Vec<Record>,
}

impl Reply {
    fn failure(code: ResponseCode) -> Self {
        Reply { code, answers: vec![], authorities: vec![], additionals: vec![] }
    }

    /// Seconds that the reply may be kept; none for failures.
    fn ttl(&self) -> Option<u32> {
        let records = || self.answers.iter().chain(&self.authorities).chain(&self.additionals);
        match self.code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            _ => return None,
        }
        let shortest = records().map(|record| record.ttl).min()?;
        let negative = self.authorities.iter().filter_map(|record| match &record.data {
            RData::SOA(soa) if self.answers.is_empty() => Some(soa.minimum),
            _ => None,
        });
        Some(negative.fold(shortest, u32::min).min(MAX_TTL)).filter(|ttl| *ttl > 0)
    }

    fn aged(&self, seconds: u32) -> Self {
        let mut reply = self.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities).chain(&mut reply.additionals) {
            record.ttl = record.ttl.min(MAX_TTL).saturating_sub(seconds);
        }
        reply
    }
}

struct Kept {
    reply: Reply,
    since: Instant,
    until: Instant,
}

/// Two generations: when the young one is full, the old one is dropped.
#[derive(Default)]
struct Cache {
    young: HashMap<Question, Kept>,
    old: HashMap<Question, Kept>,
}

impl Cache {
    fn get(&self, question: &Question, now: Instant) -> Option<Reply> {
        let kept = self.young.get(question).or_else(|| self.old.get(question)).filter(|kept| kept.until > now)?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        Some(kept.reply.aged(age))
    }

    fn put(&mut self, question: Question, reply: Reply, now: Instant) {
        let Some(ttl) = reply.ttl() else { return };
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, Kept { reply, since: now, until: now + Duration::from_secs(ttl.into()) });
    }
}

type Waiting = watch::Receiver<Option<Reply>>;

/// Asks the host's resolvers.
pub struct Forwarder {
    resolv_conf: PathBuf,
    own: Vec<SocketAddr>,
    servers: Mutex<(Option<Instant>, Vec<SocketAddr>)>,
    cache: Mutex<Cache>,
    /// Questions under way: the same question waits for the same answer, which also ends loops.
    asking: Mutex<HashMap<Question, Waiting>>,
    slots: Semaphore,
}

impl Forwarder {
    /// A forwarder to the resolvers in the file `resolv_conf`, except the addresses `own`.
    pub fn new(resolv_conf: PathBuf, own: Vec<SocketAddr>) -> Self {
        Forwarder {
            resolv_conf,
            own,
            servers: Mutex::default(),
            cache: Mutex::default(),
            asking: Mutex::default(),
            slots: Semaphore::new(CONCURRENCY),
        }
    }

    /// A forwarder to `servers`.
    #[cfg(test)]
    pub fn with_servers(servers: Vec<SocketAddr>) -> Self {
        let forwarder = Forwarder::new(PathBuf::new(), vec![]);
        *forwarder.servers.lock() = (Some(Instant::now() + Duration::from_secs(3600)), servers);
        forwarder
    }

    /// The answer from memory, if it is there.
    pub fn cached(&self, question: &Question) -> Option<Reply> {
        self.cache.lock().get(question, Instant::now())
    }

    /// The answer of the first resolver that has one.
    pub async fn resolve(&self, question: Question) -> Reply {
        if let Some(reply) = self.cached(&question) {
            return reply;
        }
        let first = match self.asking.lock().entry(question.clone()) {
            Entry::Occupied(under_way) => Err(under_way.get().clone()),
            Entry::Vacant(free) => {
                let (sender, receiver) = watch::channel(None);
                free.insert(receiver);
                Ok(sender)
            }
        };
        match first {
            Ok(sender) => {
                let _forget = Forget { forwarder: self, question: &question };
                let reply = match self.slots.try_acquire() {
                    Ok(_slot) => self.ask_all(&question).await,
                    Err(_) => Reply::failure(ResponseCode::ServFail),
                };
                self.cache.lock().put(question.clone(), reply.clone(), Instant::now());
                sender.send_replace(Some(reply.clone()));
                reply
            }
            Err(mut waiting) => match waiting.wait_for(Option::is_some).await.map(|reply| reply.clone()) {
                Ok(Some(reply)) => reply,
                _ => Reply::failure(ResponseCode::ServFail),
            },
        }
    }

    async fn ask_all(&self, question: &Question) -> Reply {
        let servers = self.servers();
        let mut failure = Reply::failure(ResponseCode::ServFail);
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            match timeout(PATIENCE, ask(*server, question)).await {
                Ok(Ok(reply)) if matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain) => return reply,
                Ok(Ok(reply)) => failure = Reply::failure(reply.code),
                Ok(Err(error)) => tracing::debug!(%server, name = %question.name, %error, "resolver failed"),
                Err(_) => tracing::debug!(%server, name = %question.name, "resolver did not answer in time"),
            }
        }
        failure
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let mut servers = self.servers.lock();
        if servers.0.is_none_or(|read| read.elapsed() >= REREAD) {
            servers.0 = Some(Instant::now());
            match std::fs::read_to_string(&self.resolv_conf) {
                Ok(text) => servers.1 = name_servers(&text, &self.own),
                Err(error) => tracing::debug!(path = %self.resolv_conf.display(), %error, "cannot read resolvers"),
            }
        }
        servers.1.clone()
    }
}

/// Ends the wait for a question also when its asker is cancelled.
struct Forget<'a> {
    forwarder: &'a Forwarder,
    question: &'a Question,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.forwarder.asking.lock().remove(self.question);
    }
}

/// Asks one resolver.
async fn ask(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(question.name.clone(), question.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(question.dnssec);
    request.set_edns(edns);
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket for each question: the port is a further secret that a forged answer has to guess.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(reply) = Message::from_vec(&buffer[..length]) else { continue };
        if !answers_to(&reply, &request) {
            continue;
        }
        if reply.metadata.truncation {
            return ask_tcp(server, &request, &bytes).await;
        }
        return Ok(to_reply(reply));
    }
}

async fn ask_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let reply = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if !answers_to(&reply, request) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"));
    }
    Ok(to_reply(reply))
}

fn answers_to(reply: &Message, request: &Message) -> bool {
    reply.metadata.message_type == hickory_proto::op::MessageType::Response
        && reply.metadata.id == request.metadata.id
        && (reply.queries == request.queries || reply.queries.is_empty())
}

fn to_reply(message: Message) -> Reply {
    Reply {
        code: message.metadata.response_code,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::A;

    fn question(name: &str) -> Question {
        Question { name: Name::from_ascii(name).unwrap(), kind: RecordType::A, dnssec: false }
    }

    fn reply(ttl: u32) -> Reply {
        let record = Record::from_rdata(Name::from_ascii("a.test.").unwrap(), ttl, RData::A(A::new(192, 0, 2, 1)));
        Reply { answers: vec![record], ..Reply::failure(ResponseCode::NoError) }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time_but_not_longer_than_the_bound() {
        let mut cache = Cache::default();
        cache.put(question("short.test."), reply(10), Instant::now());
        cache.put(question("long.test."), reply(3600), Instant::now());
        cache.put(question("failed.test."), Reply::failure(ResponseCode::ServFail), Instant::now());
        assert_eq!(cache.get(&question("failed.test."), Instant::now()), None);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(cache.get(&question("short.test."), Instant::now()).unwrap().answers[0].ttl, 6);
        assert_eq!(cache.get(&question("long.test."), Instant::now()).unwrap().answers[0].ttl, 26);
        tokio::time::advance(Duration::from_secs(27)).await;
        assert_eq!(cache.get(&question("short.test."), Instant::now()), None);
        assert_eq!(cache.get(&question("long.test."), Instant::now()), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        for n in 0..3 * GENERATION {
            cache.put(question(&format!("n{n}.test.")), reply(30), Instant::now());
        }
        assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION);
        assert!(cache.get(&question(&format!("n{}.test.", 3 * GENERATION - 1)), Instant::now()).is_some());
    }
}
