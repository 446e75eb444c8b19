//! Whether a key may be made as somebody asks for it. Pure.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use chrono::{DateTime, Datelike, Utc};
use runtime::access::{Principal, Scope};
use runtime::http::Problem;
use shared_model::{WorkspaceId, time};

use super::view::NewWideApiKey;
use crate::store::api_key::KeyRow;

/// The longest name, in characters.
const LONGEST_NAME: usize = 200;
const MOST_WORKSPACES: usize = 1000;

/// The row of the key called `id` that `principal` asks for at `now`.
pub fn decide(
    principal: &Principal,
    new: NewWideApiKey,
    id: String,
    now: DateTime<Utc>,
) -> Result<KeyRow, Problem> {
    for workspace in &new.workspaces {
        if !principal.reaches(workspace.as_str()) {
            let name = workspace.as_str();
            let detail = format!("this credential does not reach the workspace {name:?}");
            return Err(forbidden("workspace-forbidden", detail));
        }
    }
    let mut beyond = new.scopes.iter().filter(|scope| !principal.has(**scope));
    if let Some(scope) = beyond.next() {
        let detail = format!("nobody gives the scope `{scope}` who does not have it");
        return Err(forbidden("scope-missing", detail));
    }
    let (name, workspaces) = (name(&new.name)?, workspaces(&new.workspaces)?);
    let scopes: Vec<Scope> = new.scopes.into_iter().collect();
    if scopes.is_empty() {
        return Err(invalid("scopes is empty; name what the key may do"));
    }
    let asked = new.expires_at.map(|end| expiry(end, now)).transpose()?;
    // Nobody gives more than they have, nor for longer.
    let expires_at = match (asked, principal.expires_at) {
        (Some(asked), Some(end)) => Some(asked.min(end)),
        (asked, end) => asked.or(end),
    };
    Ok(KeyRow {
        id,
        name,
        workspaces,
        scopes,
        created_at: now,
        created_by: principal.name.clone(),
        expires_at,
        revoked_at: None,
        last_used_at: None,
    })
}

fn name(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    if name.is_empty() || text.chars().count() > LONGEST_NAME || name.contains(char::is_control) {
        return Err(invalid(
            "name is not 1 to 200 characters without control characters",
        ));
    }
    Ok(name.to_owned())
}

fn workspaces(names: &BTreeSet<WorkspaceId>) -> Result<Vec<String>, Problem> {
    if !(1..=MOST_WORKSPACES).contains(&names.len()) {
        return Err(invalid("workspaces is not 1 to 1000 names"));
    }
    Ok(names.iter().map(WorkspaceId::to_string).collect())
}

fn expiry(end: DateTime<Utc>, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    if end <= now {
        return Err(invalid("expires_at is over already; write a time to come"));
    }
    // What is further off cannot be stored.
    if end.year() > 9999 {
        return Err(invalid("expires_at is beyond the year 9999; leave it out"));
    }
    Ok(time::to_micros(end))
}

fn invalid(detail: &str) -> Problem {
    Problem::bad_request("invalid-api-key", detail)
}

fn forbidden(name: &str, detail: String) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, name, detail)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use runtime::access::{Kind, Workspaces};

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn workspace(name: &str) -> WorkspaceId {
        name.parse().unwrap()
    }

    fn manager() -> Principal {
        Principal {
            name: "key:1".to_owned(),
            kind: Kind::ApiKey,
            workspaces: Workspaces::Of(["depot".to_owned()].into()),
            scopes: [Scope::Read, Scope::Manage].into(),
            expires_at: None,
        }
    }

    #[test]
    fn a_key_ends_no_later_than_that_of_its_maker() {
        let end = now() + TimeDelta::days(1);
        let maker = Principal {
            expires_at: Some(end),
            ..manager()
        };
        for (asked, expected) in [
            (None, end),
            (Some(end + TimeDelta::days(1)), end),
            (Some(end - TimeDelta::hours(1)), end - TimeDelta::hours(1)),
        ] {
            let new = NewWideApiKey {
                expires_at: asked,
                ..new()
            };
            let row = decide(&maker, new, "1".to_owned(), now()).unwrap();
            assert_eq!(row.expires_at, Some(expected));
        }
    }

    fn new() -> NewWideApiKey {
        NewWideApiKey {
            name: " board ".to_owned(),
            workspaces: [workspace("depot")].into(),
            scopes: [Scope::Read].into(),
            expires_at: None,
        }
    }

    fn refusal(principal: &Principal, new: NewWideApiKey) -> (u16, String) {
        let problem = decide(principal, new, "id".to_owned(), now()).unwrap_err();
        (
            problem.status,
            problem.kind.replace("urn:headrace:problem:", ""),
        )
    }

    #[test]
    fn a_key_allows_what_was_asked_for_and_names_its_maker() {
        let key = decide(&manager(), new(), "id".to_owned(), now()).unwrap();
        assert_eq!(
            (key.name.as_str(), key.created_by.as_str()),
            ("board", "key:1")
        );
        assert_eq!(
            (key.workspaces, key.scopes),
            (vec!["depot".to_owned()], vec![Scope::Read])
        );
    }

    #[test]
    fn nobody_gives_what_they_do_not_have() {
        for scope in [Scope::Ingest, Scope::Operate] {
            let scopes = [Scope::Read, scope].into();
            let refused = refusal(&manager(), NewWideApiKey { scopes, ..new() });
            assert_eq!(refused, (403, "scope-missing".to_owned()));
        }
        let both = || ["depot", "harbour"].map(workspace).into();
        let wide = || NewWideApiKey {
            workspaces: both(),
            ..new()
        };
        let refused = refusal(&manager(), wide());
        assert_eq!(refused, (403, "workspace-forbidden".to_owned()));
        assert!(decide(&Principal::internal(), wide(), "id".to_owned(), now()).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let ended = Some(now() - TimeDelta::seconds(1));
        for wrong in [
            NewWideApiKey {
                name: " ".to_owned(),
                ..new()
            },
            NewWideApiKey {
                name: "a\0".to_owned(),
                ..new()
            },
            NewWideApiKey {
                name: "a".repeat(201),
                ..new()
            },
            NewWideApiKey {
                scopes: BTreeSet::new(),
                ..new()
            },
            NewWideApiKey {
                workspaces: BTreeSet::new(),
                ..new()
            },
            NewWideApiKey {
                expires_at: ended,
                ..new()
            },
        ] {
            assert_eq!(
                refusal(&manager(), wrong),
                (400, "invalid-api-key".to_owned())
            );
        }
    }
}
