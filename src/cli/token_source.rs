//! The flags of tokens, which all clients share.

use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use crate::auth::Secret;
use crate::client::{Address, TokenSource, Tokens};
use crate::process::terminal::say;

/// The heading of the flags in the help.
const HEADING: &str = "Token, for a server that requires one";

/// The flag with a command. Results of loads leave its value out.
pub(super) const COMMAND_FLAG: &str = "--token-command";

/// The variable with a token.
const VARIABLE: &str = "MILLSTREAM_TOKEN";

#[derive(Clone, Debug, clap::Args)]
pub(super) struct TokenArgs {
    /// Send the token in this file. It is read again for each connection, and before the token expires. Without
    /// --token-file and --token-command, the variable MILLSTREAM_TOKEN has the token. No flag takes the token
    /// itself, because other users can see the arguments of a command
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    token_file: Option<PathBuf>,
    /// Send the token that this command for sh prints within 10 s. It is run again for each connection, and
    /// before the token expires
    #[arg(long, value_name = "COMMAND", conflicts_with = "token_file", help_heading = HEADING)]
    token_command: Option<String>,
    /// Send the token also without TLS to another machine. Anyone between client and server can then read it
    #[arg(long, help_heading = HEADING)]
    token_over_plaintext: bool,
}

impl TokenArgs {
    /// Returns the name of a flag that is set, if one is.
    pub(super) fn any(&self) -> Option<&'static str> {
        let set = [
            (self.token_file.is_some(), "--token-file"),
            (self.token_command.is_some(), COMMAND_FLAG),
            (self.token_over_plaintext, "--token-over-plaintext"),
        ];
        set.into_iter().find_map(|(is_set, name)| is_set.then_some(name))
    }

    /// Reads the first token for connections to `address`. Returns `None` without a source. With `is_shared`, many
    /// connections use one token for a while.
    pub(super) fn tokens(&self, address: &Address, is_shared: bool) -> Result<Option<Arc<Tokens>>, Failure> {
        let Some(source) = self.source()? else { return Ok(None) };
        if !address.is_secure() && !address.is_local() {
            let to = address.authority();
            if !self.token_over_plaintext {
                return Err(Failure(format!(
                    "a token for {to} would be sent without TLS, so that others could read it: write wss:// in --url, \
                     or accept that with --token-over-plaintext"
                )));
            }
            say(format_args!(
                "millstream: WARNING: --token-over-plaintext: the token is sent to {to} without TLS, so anyone between \
                 this client and the server can read and use it"
            ));
        }
        Ok(Some(Tokens::load(source, is_shared)?))
    }

    fn source(&self) -> Result<Option<TokenSource>, Failure> {
        let variable = match std::env::var(VARIABLE) {
            Ok(token) if token.is_empty() => None,
            Ok(token) => Some(Secret::new(&token)),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(Failure(format!("{VARIABLE}: not a token: not a text")));
            }
        };
        let flag = match (&self.token_file, &self.token_command) {
            (Some(file), _) => Some(TokenSource::File(file.clone())),
            (None, Some(command)) => Some(TokenSource::Command(command.clone())),
            (None, None) => None,
        };
        match (flag, variable) {
            (Some(_), Some(_)) => {
                let flag = self.any().unwrap_or_default();
                Err(Failure(format!(
                    "{VARIABLE} and {flag} both give a token: unset the variable, or omit the flag"
                )))
            }
            (Some(source), None) => Ok(Some(source)),
            (None, variable) => Ok(variable.map(|token| TokenSource::Variable(VARIABLE, token))),
        }
    }
}
