//! API keys, as a service looks them up.

use futures_util::future::{BoxFuture, ready};

use super::Principal;
use crate::http::Problem;

/// What is known of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAnswer {
    /// Who comes with it.
    pub principal: Principal,
}

/// Where API keys are known.
pub trait KeyLookup: Send + Sync {
    /// Who comes with the API key `credential`; none if it is no key that is valid now.
    fn find<'a>(&'a self, credential: &'a str)
    -> BoxFuture<'a, Result<Option<KeyAnswer>, Problem>>;
}

/// No API key is known.
#[derive(Debug, Clone, Copy)]
pub struct NoKeys;

impl KeyLookup for NoKeys {
    fn find<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<KeyAnswer>, Problem>> {
        Box::pin(ready(Ok(None)))
    }
}
