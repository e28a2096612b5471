//! Errors as CNI has them: JSON on stdout.

use std::fmt;

use serde_json::{Value, json};
use turnpike_agent_api::ErrorReply;

use crate::version::CniVersion;

/// An error with its CNI code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CniError {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: u32, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    pub(crate) fn to_json(&self, version: CniVersion) -> Value {
        let mut error = json!({"cniVersion": version.as_str(), "code": self.code, "msg": self.message});
        if let (false, Some(object)) = (self.details.is_empty(), error.as_object_mut()) {
            object.insert("details".to_owned(), Value::String(self.details.clone()));
        }
        error
    }
}

impl From<ErrorReply> for CniError {
    fn from(reply: ErrorReply) -> Self {
        Self::new(reply.code, reply.message, reply.details)
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {}): {}", self.message, self.code, self.details)
    }
}
