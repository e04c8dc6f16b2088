//! The providers: what each of them makes of a credential.
//!
//! | file | one concept |
//! | --- | --- |
//! | `entry` | what lines of files entitle a client to |
//! | `listed` | provider static: tokens whose digests a file lists |
//! | `mtls` | provider mtls: certificates whose names a file lists |
//! | `jwt` | provider jwt: JSON Web Tokens |
//! | `keystone` | provider keystone: tokens of OpenStack |

pub(super) mod entry;
pub(super) mod jwt;
pub(super) mod keystone;
pub(super) mod listed;
pub(super) mod mtls;

use std::sync::Arc;

use super::question::Denial;
use super::token::Digest;
use crate::access::Grant;
use crate::base::secret::Secret;
use crate::tls::ClientCertificate;

/// The longest token, in bytes.
pub(super) const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What a provider says of a credential.
#[derive(Debug)]
pub(super) enum Opinion {
    /// It is valid.
    Granted(Grant, Evidence),
    /// The provider does not know it. Another one may. If none does, this is why.
    NotMine(Denial),
    /// It is this provider's, and not valid.
    Denied(Denial),
    /// Only the network can tell.
    Ask(Need),
}

/// What the network must tell.
#[derive(Debug)]
pub(super) enum Need {
    /// The key with this id, which signed a JSON Web Token. `None` if there are no keys at all.
    Key(Option<Box<str>>),
    /// What Keystone knows of a token.
    Keystone(Secret),
}

/// What a grant rests on, so that it can be judged again.
#[derive(Clone, Debug)]
pub(super) enum Evidence {
    /// A token of the server's own.
    Listed(Digest),
    /// A JSON Web Token whose signature was verified.
    Signed(jwt::Signed),
    /// A token of Keystone, and what Keystone said of it.
    Keystone(Secret, keystone::Facts),
    /// A certificate that TLS has verified.
    Certificate(Arc<ClientCertificate>),
}
