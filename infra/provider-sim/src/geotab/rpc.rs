//! JSON-RPC as Geotab has it: errors come with the status 200, and their type is in `error.data.type`.

use crate::polled::{Desk, Refused};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) method: String,
    /// The type that is asked for; empty if there is none.
    pub(super) type_name: String,
    pub(super) params: Map<String, Value>,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn argument(message: &str) -> Self {
        Self {
            kind: "ArgumentException",
            message: message.to_owned(),
        }
    }

    pub(super) fn invalid_user(database: &str) -> Self {
        Self {
            kind: "InvalidUserException",
            message: format!("Incorrect login credentials @ '{database}'"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Wire {
    method: String,
    #[serde(default)]
    params: Map<String, Value>,
}

impl Call {
    /// Reads the body of a request.
    pub(super) fn read(body: &[u8]) -> Result<Self, Failure> {
        let wire: Wire = serde_json::from_slice(body).map_err(|error| Failure {
            kind: "JsonSerializerException",
            message: format!("The request is unreadable: {error}"),
        })?;
        let type_name = wire.params.get("typeName").and_then(Value::as_str);
        Ok(Self {
            type_name: type_name.unwrap_or_default().to_owned(),
            method: wire.method,
            params: wire.params,
        })
    }

    /// The password of an `Authenticate` for this database and user.
    pub(super) fn login(&self, database: &str, user: &str) -> Option<&str> {
        let text = |key: &str| self.params.get(key).and_then(Value::as_str);
        let is_ours = text("database") == Some(database) && text("userName") == Some(user);
        is_ours.then(|| text("password"))?
    }

    /// The session that a call belongs to.
    pub(super) fn session(&self) -> Option<&str> {
        self.params.get("credentials")?.get("sessionId")?.as_str()
    }
}

pub(super) fn succeeded(result: &Value) -> Response {
    Json(json!({"result": result, "jsonrpc": "2.0"})).into_response()
}

pub(super) fn failed(desk: &Desk, failure: &Failure) -> Refused {
    let Failure { kind, message } = failure;
    let id = format!("00000000-0000-0000-0000-{:012x}", desk.visits.count());
    let body = json!({
        "error": {
            "message": message,
            "code": -32000,
            "data": {"id": id, "type": kind, "requestIndex": 0},
            "name": "JSONRPCError",
            "errors": [{"message": message, "name": kind}],
        },
        "jsonrpc": "2.0",
        "requestIndex": 0,
    });
    Refused::new(Json(body))
}
