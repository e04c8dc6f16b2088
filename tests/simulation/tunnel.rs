//! TLS on simulated connections: the real sessions of the server and the client.
//!
//! The server's key is an Ed25519 key, whose signatures have a fixed length. So the lengths on the wire are the same in
//! each run of a seed, although the bytes are not.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use millstream::shard::transport::Tls;
use millstream::tls::client::{Records, Roots, Session, config};
use millstream::tls::{Config, Material, Pair, Settings};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, Error, RootCertStore};

const NAME: &str = "simulated";

/// The configurations of both sides.
static BOTH: LazyLock<(Arc<Config>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let made = CertificateParams::new(vec![NAME.to_owned()]).and_then(|params| params.self_signed(&key));
    let certificate = made.expect("a certificate").der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let client = config(Roots::Authorities(roots), None).expect("the client's configuration");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS#8 key");
    let material = Material { pairs: vec![Pair { chain: vec![certificate], key }], ..Material::default() };
    let server = Config::new(material, &Settings::default()).expect("the server's configuration");
    (Arc::new(server), Arc::new(client))
});

/// Returns what the TLS connections of one shard share.
pub fn of_shard(window: usize) -> Rc<Tls> {
    Rc::new(Tls::new(BOTH.0.clone(), window))
}

/// The client's end.
pub struct Tunnel {
    session: Session,
    records: Records,
}

impl Tunnel {
    pub fn new() -> Self {
        let name = ServerName::try_from(NAME).expect("a name");
        let session = Session::new(BOTH.1.clone(), name).expect("a session");
        let mut tunnel = Self { session, records: Records::default() };
        tunnel.receive(&[]).expect("the handshake begins");
        tunnel
    }

    /// Handles bytes from the server. Returns the plaintext.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let (mut input, mut plain) = ([self.session.kept(), bytes].concat(), Vec::new());
        self.session.handle(&mut input, &mut plain, &mut self.records)?;
        Ok(plain)
    }

    /// Seals plaintext once the handshake has ended, and moves what is sealed to `out`.
    pub fn send(&mut self, plain: &mut Vec<u8>, out: &mut VecDeque<u8>) -> Result<(), Error> {
        if self.session.is_open() && !plain.is_empty() {
            self.session.seal(plain, &mut self.records)?;
            plain.clear();
        }
        let waiting = self.records.waiting().len();
        out.extend(self.records.waiting());
        self.records.sent(waiting);
        Ok(())
    }
}
