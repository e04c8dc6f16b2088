//! The envelope and the headers of a request, and its refusal.

use std::borrow::Cow;

use super::action::{Action, Body, Field, Invalid, fields};
use super::answer::{self, Echo};
use super::document::{Document, Format, Kind, Node};
use super::texts;

/// A request whose schema is correct. Values that the schema does not describe, and limits, are not checked.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its format, which is also that of the answer.
    pub format: Format,
    /// What the answer repeats.
    pub echo: Echo<'a>,
    /// Its headers.
    pub headers: Headers<'a>,
    /// The action with its fields.
    pub action: Action<'a>,
}

/// The headers of a request.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    /// `Client-ID`. Empty if `authenticate` has none.
    pub client: Cow<'a, str>,
    /// `X-Project-ID`.
    pub project: Cow<'a, str>,
    /// `X-Auth-Token`.
    pub token: Option<Cow<'a, str>>,
    signed: [Option<Node<'a>>; 4],
}

/// The headers of a pre-signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presigned<'a> {
    /// `URL-Signature`.
    pub signature: Cow<'a, str>,
    /// `URL-Expires`.
    pub expires: Cow<'a, str>,
    /// `URL-Methods`.
    pub methods: Vec<Cow<'a, str>>,
    /// `URL-Paths`.
    pub paths: Vec<Cow<'a, str>>,
}

impl<'a> Headers<'a> {
    fn read(headers: Option<Node<'a>>, is_authentication: bool) -> Result<Self, Invalid> {
        let headers = match headers {
            None => return Err(Invalid { field: "headers", why: "is missing" }),
            Some(node) if node.kind() != Kind::Map => {
                return Err(Invalid { field: "headers", why: "must be a map" });
            }
            Some(node) => node,
        };
        let [client, project, token, agent, date, accept, signature, expires, methods, paths] = fields(
            headers,
            [
                "Client-ID",
                "X-Project-ID",
                "X-Auth-Token",
                "User-Agent",
                "Date",
                "Accept",
                "URL-Signature",
                "URL-Expires",
                "URL-Methods",
                "URL-Paths",
            ],
        );
        for unused in [agent, date, accept] {
            unused.optional_text()?;
        }
        Ok(Self {
            client: if is_authentication {
                client.optional_text()?.unwrap_or_default()
            } else {
                client.text()?
            },
            project: project.text()?,
            token: token.optional_text()?,
            signed: [signature, expires, methods, paths].map(Field::node),
        })
    }

    /// Returns whether the request shows a signature, which may be wrong.
    pub fn is_presigned(&self) -> bool {
        self.signed[0].is_some()
    }

    /// Returns the headers of a pre-signed request. `None` if one is missing or not of its type: text, text, array of
    /// text, array of text.
    pub fn presigned(&self) -> Option<Presigned<'a>> {
        let [signature, expires, methods, paths] = self.signed;
        let texts = |node: Node<'a>| {
            let is_array = node.kind() == Kind::Array;
            node.elements().map(Node::as_text).collect::<Option<Vec<_>>>().filter(|_| is_array)
        };
        Some(Presigned {
            signature: signature?.as_text()?,
            expires: expires?.as_text()?,
            methods: texts(methods?)?,
            paths: texts(paths?)?,
        })
    }
}

/// A request that is refused before authentication.
#[derive(Clone, Debug)]
pub struct Refused<'a> {
    /// What the answer repeats. Empty if the request is no map.
    pub echo: Echo<'a>,
    /// The status.
    pub status: u16,
    /// The `error` of the answer.
    pub text: Cow<'static, str>,
}

impl Refused<'_> {
    /// Appends the answer.
    pub fn write(&self, format: Format, out: &mut Vec<u8>) {
        answer::error(format, &self.echo, self.status, &self.text, out);
    }
}

impl<'a> Request<'a> {
    /// Reads a request. The checks come in the order of the API: the document, the map, the action, its schema.
    pub fn parse(format: Format, bytes: &'a [u8]) -> Result<Self, Refused<'a>> {
        let refuse = |echo, text: Cow<'static, str>| Refused { echo, status: 400, text };
        let document = Document::check(format, bytes).map_err(|undecodable| {
            let text = match format {
                Format::Json => texts::UNDECODABLE_JSON,
                Format::MessagePack => texts::UNDECODABLE_MESSAGE_PACK,
            };
            refuse(Echo::default(), format!("{text} Error {undecodable}.").into())
        })?;
        let root = document.root();
        if root.kind() != Kind::Map {
            return Err(refuse(Echo::default(), texts::NO_MAP.into()));
        }
        let [action, headers, body] = root.named(["action", "headers", "body"]);
        let mut echo = Echo { action, headers, body };
        let name = match action.map(|action| (action, action.kind())) {
            None | Some((_, Kind::Null)) => "None".into(),
            Some((action, Kind::Text)) => action.as_text().unwrap_or_default(),
            Some((_, Kind::Array | Kind::Map)) => return Err(refuse(echo, texts::BAD_ACTION.into())),
            Some((action, Kind::Bool)) => {
                if action.as_bool() == Some(true) { "True" } else { "False" }.into()
            }
            Some((action, _)) => action.to_json_value().map_or("?".into(), |value| value.to_string().into()),
        };
        let is_authentication = name == "authenticate";
        if is_authentication {
            // The answer must not show the token.
            (echo.headers, echo.body) = (None, None);
        }
        if Action::is_unimplemented(&name) {
            let text = format!("{name} {}", texts::NOT_IMPLEMENTED).into();
            return Err(Refused { echo, status: 501, text });
        }
        let invalid = |invalid: Invalid| refuse(echo, format!("{} {invalid}", texts::INVALID).into());
        let Some(action) = Action::read(&name, Body::new(body)) else {
            return Err(refuse(echo, format!("{name} {}", texts::UNKNOWN_ACTION).into()));
        };
        let headers = Headers::read(headers, is_authentication).map_err(invalid)?;
        if is_authentication && headers.token.is_none() {
            return Err(invalid(Invalid { field: "X-Auth-Token", why: "is missing" }));
        }
        Ok(Self { format, echo, headers, action: action.map_err(invalid)? })
    }
}
