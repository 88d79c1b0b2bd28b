//! A server on loopback, asked over real sockets, with a resolver of the test behind it.
use super::*;
use crate::index::ServiceRecord;
use hickory_proto::op::Query;
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::A;

/// A resolver that answers every A question with 192.0.2.1, except names with "missing"; `big.` only over TCP.
async fn resolver() -> SocketAddr {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    let answer = |bytes: &[u8], tcp: bool| {
        let request = Message::from_vec(bytes).unwrap();
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.queries = request.queries.clone();
        let name = request.queries[0].name().clone();
        if name.to_string().contains("missing") {
            response.metadata.response_code = ResponseCode::NXDomain;
        } else if name.to_string().starts_with("big.") && !tcp {
            response.metadata.truncation = true;
        } else {
            response.add_answer(Record::from_rdata(name, 300, RData::A(A::new(192, 0, 2, 1))));
        }
        response.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                received = listener.udp.recv_from(&mut buffer) => {
                    let (length, from) = received.unwrap();
                    listener.udp.send_to(&answer(&buffer[..length], false), from).await.unwrap();
                }
                accepted = listener.tcp.accept() => {
                    let mut stream = accepted.unwrap().0;
                    let mut question = vec![0; stream.read_u16().await.unwrap().into()];
                    stream.read_exact(&mut question).await.unwrap();
                    let bytes = answer(&question, true);
                    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        }
    });
    address
}

async fn start() -> SocketAddr {
    let index = Index::default();
    index.write(|state| {
        state.set_namespace("shop", true);
        let web = ServiceRecord { cluster_ips: vec!["10.96.0.7".parse().unwrap()], ..Default::default() };
        state.set_service(("shop".into(), "web".into()), Some(web));
        let external = |name: &str| ServiceRecord { external_name: Some(name.into()), ..Default::default() };
        state.set_service(("shop".into(), "near".into()), Some(external("web.shop.svc.cluster.local")));
        state.set_service(("shop".into(), "far".into()), Some(external("db.example.org")));
        state.set_service(("shop".into(), "circle".into()), Some(external("circle.shop.svc.cluster.local")));
        let many: Vec<_> = (0..200)
            .map(|n| crate::index::EndpointRecord {
                ip: std::net::Ipv4Addr::from(0x0a01_0000 + n).into(),
                label: format!("many-{n}"),
                ports: vec![].into(),
            })
            .collect();
        state.set_service(("shop".into(), "many".into()), Some(ServiceRecord::default()));
        state.set_endpoints(&("shop".into(), "many".into()), "many-1", many);
    });
    let forwarder = Forwarder::with_servers(vec![resolver().await]);
    let zone = Zone::new(Name::from_ascii("cluster.local.").unwrap());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    listener.spawn(Arc::new(Server::new(zone, index, forwarder)), CancellationToken::new());
    address
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

async fn exchange_udp(server: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut buffer = vec![0; 65535];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask(server: SocketAddr, name: &str) -> Message {
    exchange_udp(server, &question(name).to_vec().unwrap()).await
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn cluster_names_are_answered_with_authority_and_others_are_forwarded() {
    let server = start().await;
    let reply = ask(server, "web.shop.svc.cluster.local.").await;
    assert_eq!(data(&reply), ["10.96.0.7"]);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    let reply = ask(server, "www.example.org.").await;
    assert_eq!(data(&reply), ["192.0.2.1"]);
    assert!(!reply.metadata.authoritative);
    let reply = ask(server, "WWW.example.ORG.").await;
    assert_eq!(reply.answers[0].name.to_string(), "WWW.example.ORG.");
    assert_eq!(ask(server, "missing.example.org.").await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn negative_answers_carry_the_zones_soa() {
    let server = start().await;
    let reply = ask(server, "example.org.shop.svc.cluster.local.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    let reply = ask(server, "shop.svc.cluster.local.").await;
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn external_names_are_followed_inside_and_outside_and_circles_end() {
    let server = start().await;
    assert_eq!(data(&ask(server, "near.shop.svc.cluster.local.").await), ["web.shop.svc.cluster.local.", "10.96.0.7"]);
    assert_eq!(data(&ask(server, "far.shop.svc.cluster.local.").await), ["db.example.org.", "192.0.2.1"]);
    assert_eq!(ask(server, "circle.shop.svc.cluster.local.").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_does_not_fit_is_marked_and_comes_whole_over_tcp() {
    let server = start().await;
    let bytes = question("many.shop.svc.cluster.local.").to_vec().unwrap();
    let reply = exchange_udp(server, &bytes).await;
    assert!(reply.metadata.truncation && !reply.answers.is_empty() && reply.answers.len() < 200);
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut buffer).await.unwrap();
    let reply = Message::from_vec(&buffer).unwrap();
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 200);
}

#[tokio::test]
async fn a_truncated_answer_of_a_resolver_is_fetched_over_tcp() {
    let server = start().await;
    assert_eq!(data(&ask(server, "big.example.org.").await), ["192.0.2.1"]);
}

#[tokio::test]
async fn malformed_questions_get_errors_and_answers_get_nothing() {
    let server = start().await;
    let mut broken = question("web.shop.svc.cluster.local.").to_vec().unwrap();
    broken.truncate(20);
    assert_eq!(exchange_udp(server, &broken).await.metadata.response_code, ResponseCode::FormErr);
    let mut edns = question("web.shop.svc.cluster.local.");
    edns.set_edns(Edns::new().set_version(1).clone());
    let reply = exchange_udp(server, &edns.to_vec().unwrap()).await;
    // BADVERS, whose number BADSIG shares.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let response = Message::response(7, OpCode::Query).to_vec().unwrap();
    socket.send_to(&response, server).await.unwrap();
    socket.send_to(&[0xff; 5], server).await.unwrap();
    // What comes back first is the answer to what was sent last.
    let last = question("web.shop.svc.cluster.local.");
    socket.send_to(&last.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, last.metadata.id);
}

#[tokio::test]
async fn no_question_however_mangled_is_a_panic() {
    let index = Index::default();
    let zone = Zone::new(Name::from_ascii("cluster.local.").unwrap());
    let server = Server::new(zone, index, Forwarder::with_servers(vec![]));
    let mut seed = question("_http._tcp.web.shop.svc.cluster.local.");
    seed.set_edns(Edns::new());
    let seed = seed.to_vec().unwrap();
    // xorshift: the same cases each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    for _ in 0..20_000 {
        let mut bytes = seed.clone();
        for _ in 0..next() % 6 {
            let at = next() % bytes.len();
            bytes[at] = (next() % 256) as u8;
        }
        bytes.truncate(next() % (bytes.len() + 1));
        if let Some((request, Step::Done(response))) = server.begin(&bytes) {
            assert!(encode(&response, udp_limit(&request)).is_none_or(|answer| answer.len() <= PAYLOAD.into()));
        }
    }
}
