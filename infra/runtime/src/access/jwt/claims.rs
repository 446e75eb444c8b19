//! What a token's claims say its bearer may do. Pure; the claims are those of a verified token.

use std::collections::BTreeSet;

use serde_json::Value;

use super::JwtConfig;
use crate::access::{Kind, Principal, Scope, Workspaces};

/// As long as a provider may make it, in bytes.
const LONGEST_NAME: usize = 255;
/// What a token says to mean all workspaces.
const ALL: &str = "*";

/// Where tokens say what their bearer may do.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    workspaces: String,
    scopes: String,
    scope_prefix: String,
    allow_all_workspaces: bool,
}

impl Claims {
    pub(super) fn of(config: &JwtConfig) -> Self {
        Self {
            workspaces: config.workspaces_claim.clone(),
            scopes: config.scopes_claim.clone(),
            scope_prefix: config.scope_prefix.clone(),
            allow_all_workspaces: config.allow_all_workspaces,
        }
    }

    /// The bearer of a token with these claims; none if its subject is no name. What is not understood
    /// gives no right.
    pub(super) fn principal(&self, claims: &Value) -> Option<Principal> {
        let subject = claims.get("sub")?.as_str().filter(|sub| is_name(sub))?;
        let scopes = words(find(claims, &self.scopes));
        let scopes = scopes.filter_map(|word| word.strip_prefix(&*self.scope_prefix)?.parse().ok());
        let scopes: BTreeSet<Scope> = scopes.collect();
        let mut names: BTreeSet<_> = words(find(claims, &self.workspaces))
            .map(str::to_owned)
            .collect();
        let workspaces = if names.remove(ALL) && self.allow_all_workspaces {
            Workspaces::All
        } else {
            Workspaces::Of(names)
        };
        Some(Principal {
            name: format!("jwt:{subject}"),
            kind: Kind::Token,
            workspaces,
            scopes,
            // A token is renewed for as long as its holder is known to the issuer.
            expires_at: None,
        })
    }
}

/// Whether a subject can be told of in logs and kept in tables.
fn is_name(subject: &str) -> bool {
    (1..=LONGEST_NAME).contains(&subject.len()) && !subject.contains(char::is_control)
}

/// The claim called `name`. Names may hold any character (`https://…/workspaces`), so only what starts
/// with `/`, which no provider's claims do, is a path into nested ones.
fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') {
        claims.pointer(name)
    } else {
        claims.get(name)
    }
}

/// The words of a claim: those of a text that are parted by spaces or commas, or the texts of an array.
fn words(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let apart = |c: char| c.is_whitespace() || c == ',';
    let text = claim.and_then(Value::as_str).unwrap_or_default();
    let items = claim.and_then(Value::as_array).into_iter().flatten();
    let items = items.filter_map(Value::as_str).map(str::trim);
    text.split(apart)
        .chain(items)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn reads(config: JwtConfig, claims: &Value) -> (Workspaces, Vec<Scope>) {
        let mut claims = claims.clone();
        claims["sub"] = json!("somebody");
        let principal = Claims::of(&config).principal(&claims).unwrap();
        assert_eq!(principal.name, "jwt:somebody");
        assert_eq!(principal.kind, Kind::Token);
        (principal.workspaces, principal.scopes.into_iter().collect())
    }

    fn of(names: &[&str]) -> Workspaces {
        Workspaces::Of(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn workspaces_and_scopes_come_as_text_or_as_an_array() {
        for workspaces in [
            json!(["a", " b"]),
            json!("a b"),
            json!("a,b"),
            json!("a, b"),
        ] {
            for scope in [
                json!("read manage openid"),
                json!(["read", "manage", "admin", 7]),
            ] {
                let claims = json!({"workspaces": workspaces, "scope": scope});
                let (reached, scopes) = reads(JwtConfig::default(), &claims);
                assert_eq!(reached, of(&["a", "b"]), "{claims}");
                assert_eq!(scopes, [Scope::Read, Scope::Manage], "{claims}");
            }
        }
        let claims = json!({"workspaces": "one"});
        assert_eq!(reads(JwtConfig::default(), &claims), (of(&["one"]), vec![]));
    }

    #[test]
    fn what_is_not_understood_gives_no_right() {
        for claims in [
            json!({}),
            json!({"workspaces": null, "scope": 1}),
            json!({"workspaces": {"a": true}, "scope": {"read": true}}),
            json!({"workspaces": [["a"]], "scope": [["read"]]}),
            json!({"workspaces": "", "scope": "READ reader"}),
        ] {
            let read = reads(JwtConfig::default(), &claims);
            assert_eq!(read, (of(&[]), vec![]), "{claims}");
        }
    }

    #[test]
    fn all_workspaces_are_reached_only_where_that_is_allowed() {
        let claims = json!({"workspaces": ["*", "a"]});
        assert_eq!(reads(JwtConfig::default(), &claims).0, of(&["a"]));
        let allowed = JwtConfig {
            allow_all_workspaces: true,
            ..JwtConfig::default()
        };
        assert_eq!(reads(allowed, &claims).0, Workspaces::All);
    }

    #[test]
    fn claims_are_found_by_name_or_by_pointer() {
        let config = |workspaces: &str, scopes: &str| JwtConfig {
            workspaces_claim: workspaces.to_owned(),
            scopes_claim: scopes.to_owned(),
            scope_prefix: "headrace:".to_owned(),
            ..JwtConfig::default()
        };
        let claims = json!({
            "https://id.example/workspaces": ["a"],
            "realm_access": {"roles": ["headrace:read", "manage", "offline"]},
            "a/b": {"c~d": "x"},
        });
        let named = config("https://id.example/workspaces", "/realm_access/roles");
        assert_eq!(reads(named, &claims), (of(&["a"]), vec![Scope::Read]));
        let escaped = config("/a~1b/c~0d", "/realm_access");
        assert_eq!(reads(escaped, &claims), (of(&["x"]), vec![]));
        let missing = config("/realm_access/groups", "/");
        assert_eq!(reads(missing, &claims), (of(&[]), vec![]));
    }

    #[test]
    fn who_has_no_subject_is_nobody() {
        let long = "x".repeat(256);
        for sub in [json!(null), json!(""), json!(7), json!("a\0b"), json!(long)] {
            let claims = json!({"sub": sub});
            let principal = Claims::of(&JwtConfig::default()).principal(&claims);
            assert_eq!(principal, None, "{claims}");
        }
    }

    proptest! {
        #[test]
        fn nobody_reaches_what_no_word_names(text in "[ a-z,*\"\\[\\]]{0,24}") {
            let claims = json!({"workspaces": text, "scope": text});
            let (reached, _) = reads(JwtConfig::default(), &claims);
            let Workspaces::Of(names) = reached else { panic!("all") };
            for name in names {
                prop_assert!(text.split([' ', ',']).any(|word| word == name));
            }
        }

        #[test]
        fn a_list_reads_alike_in_every_form(names in prop::collection::btree_set("[a-z0-9_-]{1,8}", 0..5)) {
            let names: Vec<_> = names.into_iter().collect();
            let expected = Workspaces::Of(names.iter().cloned().collect());
            for form in [json!(names), json!(names.join(" ")), json!(names.join(","))] {
                let claims = json!({"workspaces": form});
                prop_assert_eq!(&reads(JwtConfig::default(), &claims).0, &expected);
            }
        }
    }
}
