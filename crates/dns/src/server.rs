//! DNS over UDP and TCP: decoding, answering, encoding.
use crate::forward::{Forwarder, Question};
use crate::index::Index;
use crate::zone::{Answer, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The largest UDP answer; the way to pods has no smaller MTU than this.
const PAYLOAD: u16 = 1232;
/// Without EDNS (RFC 1035).
const PLAIN_PAYLOAD: u16 = 512;
/// TCP connections at once.
const CONNECTIONS: usize = 128;
/// A TCP client that is silent for longer is dropped.
const IDLE: Duration = Duration::from_secs(10);
/// UDP questions under way to others at once; more are left to the clients' retries.
const FORWARDED: usize = 1024;
/// Aliases of aliases of cluster names are followed this far.
const MAX_ALIASES: usize = 8;

/// Answers questions.
pub struct Server {
    zone: Zone,
    index: Index,
    forwarder: Forwarder,
    /// Turns the order of answers, so that clients which take the first one spread.
    turn: AtomicUsize,
}

/// What is left to do for an answer.
enum Step {
    Done(Message),
    /// Others have to be asked; their records complete the message.
    Forward(Message, Question),
}

impl Server {
    /// A server for `zone`.
    pub fn new(zone: Zone, index: Index, forwarder: Forwarder) -> Self {
        Server { zone, index, forwarder, turn: AtomicUsize::new(0) }
    }

    /// Decodes a request and answers it as far as memory goes. `None`: it deserves no answer.
    fn begin(&self, bytes: &[u8]) -> Option<(Message, Step)> {
        let Ok(request) = Message::from_vec(bytes) else {
            let (id, flags) = (u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]), *bytes.get(2)?);
            // The uppermost flag marks answers: answering these could go on for ever.
            if bytes.len() < 12 || flags & 0x80 != 0 {
                return None;
            }
            let error = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return Some((error.clone(), Step::Done(error)));
        };
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.checking_disabled = request.metadata.checking_disabled;
        response.metadata.recursion_available = true;
        response.queries.clone_from(&request.queries);
        let dnssec = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD).set_dnssec_ok(dnssec);
            response.set_edns(edns);
        }
        let error = match request.queries.as_slice() {
            _ if request.metadata.op_code != OpCode::Query => Some(ResponseCode::NotImp),
            _ if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) => Some(ResponseCode::BADVERS),
            [query] if query.query_class() == DNSClass::IN => None,
            [_] => Some(ResponseCode::Refused),
            _ => Some(ResponseCode::FormErr),
        };
        if let Some(code) = error {
            response.metadata.response_code = code;
            if let Some(edns) = &mut response.edns {
                edns.set_rcode_high(code.high());
            }
            return Some((request, Step::Done(response)));
        }
        let query = request.queries.first()?;
        let step = self.answer(response, query.name(), query.query_type(), dnssec);
        Some((request, step))
    }

    fn answer(&self, mut response: Message, name: &Name, kind: RecordType, dnssec: bool) -> Step {
        let mut name = name.clone();
        for _ in 0..MAX_ALIASES {
            match self.index.read(|state| self.zone.answer(state, &name, kind)) {
                Answer::Found { mut answers, additionals } => {
                    response.metadata.authoritative = true;
                    if answers.is_empty() && response.answers.is_empty() {
                        response.add_authority(self.zone.soa());
                    }
                    if !answers.is_empty() {
                        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
                        answers.rotate_left(turn);
                    }
                    response.add_answers(answers);
                    response.add_additionals(additionals);
                    return Step::Done(response);
                }
                Answer::NxDomain => {
                    response.metadata.authoritative = true;
                    response.metadata.response_code = ResponseCode::NXDomain;
                    response.add_authority(self.zone.soa());
                    return Step::Done(response);
                }
                Answer::Alias { record, target } => {
                    response.metadata.authoritative = true;
                    response.add_answer(*record);
                    name = target;
                }
                Answer::NotOurs => {
                    let question = Question { name: name.to_lowercase(), kind, dnssec };
                    return match self.forwarder.cached(&question) {
                        Some(reply) => Step::Done(complete(response, reply)),
                        None => Step::Forward(response, question),
                    };
                }
            }
        }
        response.metadata.response_code = ResponseCode::ServFail;
        Step::Done(response)
    }

    async fn finish(&self, step: Step) -> Message {
        match step {
            Step::Done(response) => response,
            Step::Forward(response, question) => complete(response, self.forwarder.resolve(question).await),
        }
    }
}

/// Puts what others answered into `response`.
fn complete(mut response: Message, reply: crate::forward::Reply) -> Message {
    // With an alias of ours in front, the alias exists whatever became of its target.
    if response.answers.is_empty() || reply.code == ResponseCode::NoError {
        response.metadata.response_code = reply.code;
    }
    // An answer to another spelling of the name is an answer to this one.
    let asked = response.queries.first().map(|query| query.name().clone());
    let respell = |mut record: Record| {
        if let Some(asked) = asked.as_ref().filter(|asked| record.name == **asked) {
            record.name = asked.clone();
        }
        record
    };
    response.add_answers(reply.answers.into_iter().map(respell).collect::<Vec<_>>());
    response.add_authorities(reply.authorities);
    response.add_additionals(reply.additionals);
    response
}

/// Encodes `response` into at most `limit` bytes; what does not fit is left out and the client told so.
fn encode(response: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    match response.emit(&mut encoder) {
        Ok(()) => Some(bytes),
        Err(error) => {
            tracing::debug!(%error, "an answer could not be encoded");
            response.truncate().to_vec().ok()
        }
    }
}

fn udp_limit(request: &Message) -> u16 {
    match &request.edns {
        Some(edns) => edns.max_payload().clamp(PLAIN_PAYLOAD, PAYLOAD),
        None => PLAIN_PAYLOAD,
    }
}

/// One address, over UDP and TCP.
pub struct Listener {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Listener {
    /// Takes the address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind(address).await?;
        // With port 0 both get the same one.
        let tcp = TcpListener::bind(udp.local_addr()?).await?;
        Ok(Listener { udp: Arc::new(udp), tcp })
    }

    /// The address in use.
    #[cfg(test)]
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves until `stop`.
    pub fn spawn(self, server: Arc<Server>, stop: CancellationToken) {
        let Listener { udp, tcp } = self;
        let until = stop.clone();
        let over_udp = server.clone();
        tokio::spawn(async move {
            tokio::select! { () = serve_udp(&udp, &over_udp) => {} () = until.cancelled() => {} }
        });
        tokio::spawn(async move {
            tokio::select! { () = serve_tcp(&tcp, &server) => {} () = stop.cancelled() => {} }
        });
    }
}

async fn serve_udp(socket: &Arc<UdpSocket>, server: &Arc<Server>) {
    let slots = Arc::new(Semaphore::new(FORWARDED));
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier answer: the client is gone.
                tracing::debug!(%error, "receiving a question failed");
                continue;
            }
        };
        let Some((request, step)) = server.begin(&buffer[..length]) else { continue };
        let limit = udp_limit(&request);
        if let Step::Done(response) = step {
            send(socket, &response, limit, from).await;
        } else if let Ok(slot) = slots.clone().try_acquire_owned() {
            let (socket, server) = (socket.clone(), server.clone());
            tokio::spawn(async move {
                send(&socket, &server.finish(step).await, limit, from).await;
                drop(slot);
            });
        }
    }
}

async fn send(socket: &UdpSocket, response: &Message, limit: u16, to: SocketAddr) {
    let Some(bytes) = encode(response, limit) else { return };
    if let Err(error) = socket.send_to(&bytes, to).await {
        tracing::debug!(%to, %error, "an answer could not be sent");
    }
}

async fn serve_tcp(listener: &TcpListener, server: &Arc<Server>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve_connection(stream, &server).await {
                        tracing::debug!(%from, %error, "a connection failed");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a DNS connection failed");
                // Out of file descriptors: they come back as other connections end.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, server: &Server) -> io::Result<()> {
    while let Ok(Ok(length)) = timeout(IDLE, stream.read_u16()).await {
        let mut buffer = vec![0; usize::from(length)];
        timeout(IDLE, stream.read_exact(&mut buffer)).await??;
        let Some((_, step)) = server.begin(&buffer) else { return Ok(()) };
        let response = server.finish(step).await;
        let Some(bytes) = encode(&response, u16::MAX) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
