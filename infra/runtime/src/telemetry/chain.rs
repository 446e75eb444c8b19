//! An error with its causes, in one line of a log.

use std::error::Error;
use std::fmt;

/// Shows `error` and everything that caused it.
#[must_use]
pub fn chain(error: &dyn Error) -> impl fmt::Display {
    Chain(error)
}

struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            // Transparent errors repeat their cause.
            let text = cause.to_string();
            if text != last {
                write!(f, ": {text}")?;
            }
            last = text;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Middle);
    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Middle(std::num::ParseIntError);

    #[test]
    fn causes_are_shown_once() {
        let cause = "x".parse::<u8>().unwrap_err();
        let error = Outer(Middle(cause));
        assert_eq!(
            chain(&error).to_string(),
            "outer: invalid digit found in string"
        );
    }
}
