//! The status and the body of an answer.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::error::ClientError;
use super::request::{AUTHENTICATE, TOKEN};

/// The longest error text of a server that is repeated, in characters.
const ERROR_CHARS_MAX: usize = 200;

/// What a server answers to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What was asked.
    pub action: String,
    /// The status, as in HTTP.
    pub status: u16,
    /// The body. After a token was shown, only the text of an error.
    pub body: Value,
}

impl Answer {
    /// Checks that `answer` belongs to `request`, and takes it apart.
    pub fn new(request: &Value, mut answer: Value) -> Result<Self, ClientError> {
        let action = request["action"].as_str().unwrap_or_default();
        let wrong = |why: &str| ClientError::Broken(format!("the answer to {action} {why}"));
        for part in ["action", "headers", "body"] {
            // A server does not repeat a token.
            let is_left_out = action == AUTHENTICATE && part != "action";
            let expected = if is_left_out { &json!({}) } else { &request[part] };
            if answer["request"][part] != *expected {
                return Err(wrong(&format!("does not repeat the {part} of its request")));
            }
        }
        if answer["request"]["api"] != "v2" {
            return Err(wrong("is not of the API v2"));
        }
        let status = answer["headers"]["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let status = status.ok_or_else(|| wrong("has no status"))?;
        let mut body = answer.get_mut("body").map(Value::take).unwrap_or_default();
        if let Some(token) = request["headers"][TOKEN].as_str() {
            // A server may send back what it has received.
            body = Value::String(reason(&body).replace(token, "…"));
        }
        Ok(Self { action: action.to_owned(), status, body })
    }

    /// Returns the answer if the server has done what it was asked. The error names the action, the status and what the
    /// server says.
    pub fn granted(self) -> Result<Self, ClientError> {
        if is_success(self.status) {
            return Ok(self);
        }
        Err(ClientError::Failed(format!("{}: {} {}", self.action, self.status, reason(&self.body))))
    }

    /// Reads the body, if the server has done what it was asked.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let answer = self.granted()?;
        T::deserialize(&answer.body).map_err(|_| answer.wrong_body())
    }

    /// Returns the error for a body that is not what it must be.
    pub fn wrong_body(&self) -> ClientError {
        let Self { action, status, .. } = self;
        ClientError::Broken(format!("the answer to {action} has the status {status} and a wrong body"))
    }
}

/// Returns whether a status means that the server has done what it was asked.
pub fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Returns what the server says about a request that it refused.
pub fn reason(body: &Value) -> String {
    let text = [&body["exception"], &body["error"], body].into_iter().find_map(Value::as_str);
    text.unwrap_or_default().chars().take(ERROR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::super::request::{authenticate, headers};
    use super::*;

    fn answered(request: &Value, status: Value, body: Value) -> Value {
        let mut echo = request.clone();
        echo["api"] = json!("v2");
        json!({"request": echo, "headers": {"status": status}, "body": body})
    }

    #[test]
    fn an_answer_must_repeat_its_request_and_have_a_status() {
        let request = json!({"action": "queue_get", "headers": headers("p"), "body": {"queue_name": "q"}});
        let good = answered(&request, json!(200), json!({"a": 1}));
        let answer = Answer::new(&request, good.clone()).unwrap();
        assert_eq!(answer, Answer { action: "queue_get".into(), status: 200, body: json!({"a": 1}) });
        assert_eq!(answer.clone().read::<Value>().unwrap(), json!({"a": 1}));
        let why = answer.read::<String>().unwrap_err().to_string();
        assert!(why.contains("queue_get has the status 200 and a wrong body"), "{why}");
        for (path, value, words) in [
            ("/request/action", json!("queue_delete"), "the action"),
            ("/request/headers/Client-ID", json!("another"), "the headers"),
            ("/request/body/queue_name", json!("r"), "the body"),
            ("/request/api", json!("v1"), "API v2"),
            ("/headers/status", json!("200"), "no status"),
            ("/headers/status", json!(70_000), "no status"),
        ] {
            let mut wrong = good.clone();
            *wrong.pointer_mut(path).unwrap() = value;
            let why = Answer::new(&request, wrong).unwrap_err().to_string();
            assert!(why.contains("queue_get") && why.contains(words), "{why}");
        }
        assert!(Answer::new(&request, json!([])).is_err());
    }

    #[test]
    fn a_refusal_names_action_status_and_text_and_never_shows_the_token() {
        let request = authenticate("p", "canary-5e1");
        let mut echo = answered(&request, json!(401), json!({"error": "no such token: canary-5e1"}));
        assert!(Answer::new(&request, echo.clone()).is_err(), "the token was repeated");
        echo["request"]["headers"] = json!({});
        let why = Answer::new(&request, echo).unwrap().granted().unwrap_err().to_string();
        assert_eq!(why, "authenticate: 401 no such token: …");
        let long = Answer { action: "a".into(), status: 500, body: json!("x".repeat(ERROR_CHARS_MAX + 1)) };
        let why = long.granted().unwrap_err().to_string();
        assert_eq!(why.len(), "a: 500 ".len() + ERROR_CHARS_MAX);
    }
}
