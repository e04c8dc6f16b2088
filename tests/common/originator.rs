//! A client of TLS in front of plain clients: it forwards the bytes in both directions, and the end of each.
//!
//! With it, the suites that speak to a server byte by byte do so over TLS (`TESTS_TLS=1`).

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Writes a certificate and its key into a directory. Returns the value of `tls_certificates`, and the
/// configuration of a client that trusts it.
pub fn certificate(directory: &Path) -> (String, Arc<ClientConfig>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&cert_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    (format!("{}:{}", cert_file.display(), key_file.display()), Arc::new(config))
}

/// Starts to forward to the port `server` of this machine. Returns the port for plain clients.
pub fn originate(server: u16, config: Arc<ClientConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, config) = (client.unwrap(), config.clone());
            std::thread::spawn(move || forward(&client, server, config));
        }
    });
    port
}

/// A connection of TLS. Reading never waits for writing, because a server that sends may not read.
struct Tunnel {
    tls: Mutex<ClientConnection>,
    /// The server, for whoever sends. Records leave in order.
    sending: Mutex<TcpStream>,
}

impl Tunnel {
    /// Sends what TLS wants to send. Returns false if the server is gone.
    fn flush(&self, mut server: MutexGuard<'_, TcpStream>) -> bool {
        loop {
            let mut records = Vec::new();
            let mut tls = self.tls.lock().unwrap();
            while tls.wants_write() {
                tls.write_tls(&mut records).unwrap();
            }
            drop(tls);
            if records.is_empty() {
                return true;
            }
            if server.write_all(&records).is_err() {
                return false;
            }
        }
    }

    /// Opens records, and appends their content to `plain`. Returns whether the server goes on.
    fn open(&self, mut records: &[u8], plain: &mut Vec<u8>) -> bool {
        let mut tls = self.tls.lock().unwrap();
        while !records.is_empty() {
            tls.read_tls(&mut records).unwrap();
            let Ok(state) = tls.process_new_packets() else { return false };
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut plain[start..]).unwrap();
            if state.peer_has_closed() {
                return false;
            }
        }
        true
    }
}

fn forward(mut client: &TcpStream, server: u16, config: Arc<ClientConfig>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)) else { return };
    server.set_nodelay(true).unwrap();
    client.set_nodelay(true).unwrap();
    let mut tls = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    tls.set_buffer_limit(None);
    let tunnel = Tunnel { tls: Mutex::new(tls), sending: Mutex::new(server.try_clone().unwrap()) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 64 << 10];
            let mut is_open = true;
            // What is left after the server's end is discarded, so that the client sees no reset.
            while let Ok(bytes @ 1..) = (&*client).read(&mut buffer) {
                if is_open {
                    tunnel.tls.lock().unwrap().writer().write_all(&buffer[..bytes]).unwrap();
                    is_open = tunnel.flush(tunnel.sending.lock().unwrap());
                }
            }
            tunnel.tls.lock().unwrap().send_close_notify();
            tunnel.flush(tunnel.sending.lock().unwrap());
            let _ = tunnel.sending.lock().unwrap().shutdown(Shutdown::Write);
        });
        let (mut wire, mut plain, mut goes_on) = (vec![0; 64 << 10], Vec::new(), true);
        while goes_on {
            let Ok(bytes @ 1..) = server.read(&mut wire) else { break };
            plain.clear();
            goes_on = tunnel.open(&wire[..bytes], &mut plain);
            let is_handshaking = tunnel.tls.lock().unwrap().is_handshaking();
            if is_handshaking || tunnel.tls.lock().unwrap().wants_write() {
                tunnel.flush(tunnel.sending.lock().unwrap());
            }
            goes_on &= client.write_all(&plain).is_ok();
        }
        let _ = client.shutdown(Shutdown::Write);
    });
}
