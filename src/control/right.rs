//! The rights of requests.

/// What a request needs, and what a token gives. The greater includes the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Nothing: probes.
    Open,
    /// To read what the server does.
    Read,
    /// To change something.
    Change,
}
