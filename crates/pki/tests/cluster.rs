//! A cluster's certificates: made, kept, renewed, refused.
#![allow(clippy::unwrap_used, reason = "test helpers")]
use pintle_pki::tls::{ClientVerifier, provider};
use pintle_pki::{Clock, ClusterPki, LeafSpec, Params};
use rustls_pki_types::ServerName;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_secs(86_400);

fn params() -> Params {
    Params {
        hostname: "edge-1".into(),
        cluster_domain: "cluster.local".into(),
        node_ips: vec!["192.0.2.7".parse().unwrap()],
        service_ip: Some("10.96.0.1".parse().unwrap()),
        extra_names: vec!["k8s.example.com".into()],
    }
}

/// Does a handshake as a client that asks for `name`; gives the chains that server and client saw.
async fn handshake(pki: &ClusterPki, name: &'static str) -> Result<(usize, Vec<u8>), std::io::Error> {
    let (client_end, server_end) = tokio::io::duplex(65536);
    let acceptor = TlsAcceptor::from(Arc::new(pki.apiserver_tls().unwrap()));
    let connector = TlsConnector::from(Arc::new(pki.client_tls(Some(pki.admin().clone())).unwrap()));
    let (server, client) =
        tokio::join!(acceptor.accept(server_end), connector.connect(ServerName::try_from(name).unwrap(), client_end));
    let (client, server) = (client?, server?);
    let shown = client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((server.get_ref().1.peer_certificates().map_or(0, <[_]>::len), shown))
}

#[tokio::test]
async fn the_api_server_is_trusted_under_all_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ClusterPki::open_or_create(dir.path(), &params()).unwrap();
    for name in
        ["localhost", "127.0.0.1", "kubernetes.default.svc.cluster.local", "10.96.0.1", "192.0.2.7", "k8s.example.com"]
    {
        let (client_certificates, _) = handshake(&pki, name).await.unwrap();
        assert_eq!(client_certificates, 1, "{name}");
    }
    assert!(handshake(&pki, "other.example.com").await.is_err());
}

#[tokio::test]
async fn reopening_keeps_every_certificate_and_a_changed_address_replaces_only_the_serving_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = ClusterPki::open_or_create(dir.path(), &params()).unwrap();
    let again = ClusterPki::open_or_create(dir.path(), &params()).unwrap();
    assert_eq!(first.apiserver().current().certificate_pem, again.apiserver().current().certificate_pem);
    assert_eq!(first.service_account_key().public_point, again.service_account_key().public_point);
    let moved = Params { node_ips: vec!["192.0.2.8".parse().unwrap()], ..params() };
    let moved = ClusterPki::open_or_create(dir.path(), &moved).unwrap();
    assert_ne!(first.apiserver().current().certificate_pem, moved.apiserver().current().certificate_pem);
    assert_eq!(first.admin().current().certificate_pem, moved.admin().current().certificate_pem);
    assert_eq!(first.authority().certificate_pem(), moved.authority().certificate_pem());
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ClusterPki::open_or_create(&dir.path().join("pki"), &params()).unwrap();
    pki.node_client("n1").unwrap();
    for file in ["ca.pem", "admin.pem", "service-account.pem", "nodes/n1/kubelet-client.pem"] {
        let mode = std::fs::metadata(dir.path().join("pki").join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn damaged_and_foreign_files_are_named_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(ClusterPki::open_or_create(dir.path(), &params()).unwrap());
    let other = tempfile::tempdir().unwrap();
    drop(ClusterPki::open_or_create(other.path(), &params()).unwrap());

    std::fs::copy(other.path().join("admin.pem"), dir.path().join("admin.pem")).unwrap();
    let error = ClusterPki::open_or_create(dir.path(), &params()).err().unwrap().to_string();
    assert!(error.contains("admin.pem: the certificate was not issued by"), "{error}");
    std::fs::remove_file(dir.path().join("admin.pem")).unwrap();

    let ca = dir.path().join("ca.pem");
    let whole = std::fs::read(&ca).unwrap();
    for damaged in [&whole[..whole.len() / 2], &b""[..], &[0xff, 0xfe][..]] {
        std::fs::write(&ca, damaged).unwrap();
        let error = ClusterPki::open_or_create(dir.path(), &params()).err().unwrap().to_string();
        assert!(error.contains("ca.pem: ") && error.contains("restore the file"), "{error}");
    }
    std::fs::write(&ca, whole).unwrap();
    ClusterPki::open_or_create(dir.path(), &params()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn leafs_are_renewed_while_running_when_a_third_of_their_life_is_left() {
    let dir = tempfile::tempdir().unwrap();
    // rustls judges by the system's clock: start so that the renewed certificate is valid now.
    let clock = Clock::tokio(SystemTime::now() - 250 * DAY);
    let pki = ClusterPki::with_clock(dir.path(), &params(), clock.clone()).unwrap();
    let before = pki.apiserver().current();
    let mut renewed = pki.apiserver().renewals();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(pki.clone().run(async { drop(stopped.await) }));
    let server = Arc::new(pki.apiserver_tls().unwrap());

    tokio::time::sleep(242 * DAY).await;
    assert!(!renewed.has_changed().unwrap());
    renewed.changed().await.unwrap();
    let life = before.not_after.duration_since(before.renew_at).unwrap() * 3;
    assert!(clock.now() >= before.not_after - life / 3 && clock.now() < before.not_after - life / 3 + DAY);
    let after = pki.apiserver().current();
    assert_ne!(before.certificate_pem, after.certificate_pem);
    drop(stop);
    task.await.unwrap();
    tokio::time::resume();

    // The running server's configuration, made before, shows the new certificate.
    let (client_end, server_end) = tokio::io::duplex(65536);
    let connector = TlsConnector::from(Arc::new(pki.client_tls(None).unwrap()));
    let acceptor = TlsAcceptor::from(server);
    let name = ServerName::try_from("localhost").unwrap();
    let (client, accepted) = tokio::join!(connector.connect(name, client_end), acceptor.accept(server_end));
    accepted.unwrap();
    let shown = client.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec();
    assert_eq!(shown, after.certified.cert[0].to_vec());
    assert_eq!(
        ClusterPki::open_or_create(dir.path(), &params()).unwrap().apiserver().current().certificate_pem,
        after.certificate_pem
    );
}

#[test]
fn the_verifier_takes_only_clients_of_the_cluster_while_they_are_valid() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pki = ClusterPki::open_or_create(one.path(), &params()).unwrap();
    let stranger = ClusterPki::open_or_create(two.path(), &params()).unwrap();
    let verifier: ClientVerifier = pki.client_verifier().unwrap();
    let now = Clock::system().unix();
    verifier.verify(&pki.admin().current().certified.cert, now).unwrap();
    assert!(verifier.verify(&stranger.admin().current().certified.cert, now).is_err());
    assert!(verifier.verify(&pki.apiserver().current().certified.cert, now).is_err(), "a server certificate");
    assert!(verifier.verify(&pki.admin().current().certified.cert, now + 366 * 86_400).is_err());
    assert!(verifier.verify(&[], now).is_err());
}

#[test]
fn an_agents_request_gets_the_subject_it_was_granted_not_the_one_it_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ClusterPki::open_or_create(dir.path(), &params()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut asked = rcgen::CertificateParams::new(vec!["evil.example.com".to_owned()]).unwrap();
    asked.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let request = asked.serialize_request(&key).unwrap().pem().unwrap();
    let issued = pki.sign_request(&request, &LeafSpec::node_client("n2")).unwrap();
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    pki.client_verifier().unwrap().verify(std::slice::from_ref(&der), Clock::system().unix()).unwrap();
    let (_, x509) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(x509.subject().to_string(), "O=system:nodes, CN=system:node:n2");
    assert!(pki.sign_request("nonsense", &LeafSpec::node_client("n2")).is_err());
    assert!(!provider().cipher_suites.is_empty());
}
