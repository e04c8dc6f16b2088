//! A server that ends TLS in front of another server: it forwards the plaintext in both directions.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

use crate::certificates::Certified;

pub struct Terminator {
    pub port: u16,
    clean_ends: Arc<AtomicUsize>,
}

/// Returns the configuration of a server with this certificate. Clients need a certificate of one of the
/// authorities in `clients`, if there are any.
pub fn server_config(
    certified: &Certified,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<RootCertStore>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        Some(roots) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = certified.to_rustls();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

impl Terminator {
    /// Starts to forward to the port `server` of this machine. If `says_its_end` is false, it ends its
    /// connections without a `close_notify`.
    pub fn start(server: u16, config: Arc<ServerConfig>, says_its_end: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let clean_ends = Arc::new(AtomicUsize::new(0));
        let counter = clean_ends.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, config, counter) = (client.unwrap(), config.clone(), counter.clone());
                std::thread::spawn(move || forward(&client, server, config, says_its_end, &counter));
            }
        });
        Self { port, clean_ends }
    }

    /// Returns how many clients ended their side of TLS.
    pub fn clean_ends(&self) -> usize {
        self.clean_ends.load(Ordering::SeqCst)
    }
}

/// Sends what TLS wants to send. Call it under the lock, so that records leave in order.
fn flush(tls: &mut ServerConnection, mut client: &TcpStream) -> bool {
    while tls.wants_write() {
        if tls.write_tls(&mut client).is_err() {
            return false;
        }
    }
    true
}

/// Opens records, and appends their content to `plain`. Returns whether the client has ended its side.
fn open(tls: &mut ServerConnection, mut records: &[u8], plain: &mut Vec<u8>) -> Result<bool, rustls::Error> {
    let mut has_ended = false;
    while !records.is_empty() && !has_ended {
        tls.read_tls(&mut records).unwrap();
        let state = tls.process_new_packets()?;
        has_ended = state.peer_has_closed();
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut plain[start..]).unwrap();
    }
    Ok(has_ended)
}

fn forward(
    mut client: &TcpStream,
    server: u16,
    config: Arc<ServerConfig>,
    says_its_end: bool,
    clean_ends: &AtomicUsize,
) {
    let mut tls = ServerConnection::new(config).unwrap();
    tls.set_buffer_limit(None);
    let tls = Mutex::new(tls);
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
    server.set_nodelay(true).unwrap();
    client.set_nodelay(true).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(bytes @ 1..) = (&server).read(&mut buffer) {
                let mut tls = tls.lock().unwrap();
                tls.writer().write_all(&buffer[..bytes]).unwrap();
                if !flush(&mut tls, client) {
                    break;
                }
            }
            if says_its_end {
                let mut tls = tls.lock().unwrap();
                tls.send_close_notify();
                flush(&mut tls, client);
            }
            let _ = client.shutdown(Shutdown::Write);
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = client.read(&mut buffer) {
            let mut plain = Vec::new();
            let mut tls = tls.lock().unwrap();
            let has_ended = open(&mut tls, &buffer[..bytes], &mut plain);
            // Also sends the alert if the client broke a rule.
            let is_sent = flush(&mut tls, client);
            drop(tls);
            if has_ended == Ok(true) {
                clean_ends.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if has_ended.is_err() || !is_sent || (&server).write_all(&plain).is_err() {
                break;
            }
        }
        let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Write));
    });
}
