//! Tokens against an issuer that publishes its keys over HTTP, as real ones do.

use std::time::Instant;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::test_issuer::{ISSUER, LONG, NO_WAIT, RSA, Signer, claims, config, good, issuer};
use super::*;
use crate::access::tests::eventually;
use crate::access::{Scope, Workspaces};
use crate::config::Problems;

/// Name and detail of the refusal of a token.
async fn refused(tokens: &Tokens, token: &str) -> (String, String) {
    let refusal = tokens.principal(token).await.unwrap_err();
    let name = refusal.problem.kind.replace("urn:headrace:problem:", "");
    let status = refusal.problem.status;
    let expected = if name == "credentials-unverifiable" {
        503
    } else {
        401
    };
    assert_eq!(status, expected, "{name}");
    (name, refusal.problem.detail)
}

#[tokio::test]
async fn tokens_of_the_issuer_s_keys_are_taken() {
    let (rsa, p256) = (Signer::rsa("one"), Signer::p256("two"));
    let (published, tokens) = issuer(&[&rsa, &p256], LONG, LONG).await;
    for signer in [&rsa, &p256, &rsa] {
        let token = signer.sign(&claims(json!({"aud": ["account", "headrace"]})));
        assert!(looks_like_one(&token));
        let principal = tokens.principal(&token).await.unwrap();
        assert_eq!(principal.name, "jwt:alice");
        assert_eq!(principal.scopes, [Scope::Read].into());
        let ours = Workspaces::Of(["ours".to_owned()].into());
        assert_eq!(principal.workspaces, ours);
    }
    assert_eq!(published.reads(), 1);
}

#[tokio::test]
async fn a_token_is_refused_for_what_is_wrong_with_it() {
    let signer = Signer::p256("one");
    let (_, tokens) = issuer(&[&signer], LONG, LONG).await;
    let now = clock::now().timestamp();
    for (changed, name, word) in [
        (json!({"exp": now - 31}), "token-expired", "expired"),
        (json!({"exp": null}), "token-invalid", "`exp`"),
        (json!({"exp": "never"}), "token-invalid", "`exp`"),
        (json!({"nbf": now + 60}), "token-invalid", "`nbf`"),
        (json!({"nbf": "now"}), "token-invalid", "`nbf`"),
        (
            json!({"iss": "https://id.example/"}),
            "token-invalid",
            "`iss`",
        ),
        (json!({"iss": null}), "token-invalid", "`iss`"),
        (json!({"aud": "account"}), "token-invalid", "`aud`"),
        (json!({"aud": []}), "token-invalid", "`aud`"),
        (json!({"aud": null}), "token-invalid", "`aud`"),
        (json!({"sub": null}), "token-invalid", "`sub`"),
        (json!({"sub": ""}), "token-invalid", "`sub`"),
    ] {
        let token = signer.sign(&claims(changed.clone()));
        let (found, detail) = refused(&tokens, &token).await;
        assert_eq!(found, name, "{changed}: {detail}");
        assert!(detail.contains(word), "{changed}: {detail}");
        assert!(
            !detail.contains("headrace") && !detail.contains(ISSUER),
            "{detail}"
        );
    }
    // The issuer's clock may be off a little.
    for changed in [json!({"exp": now - 20}), json!({"nbf": now + 20})] {
        let token = signer.sign(&claims(changed));
        tokens.principal(&token).await.unwrap();
    }
}

#[tokio::test]
async fn the_key_decides_on_the_algorithm() {
    let (rsa, p256) = (Signer::rsa("one"), Signer::p256("two"));
    let (_, tokens) = issuer(&[&rsa, &p256], LONG, LONG).await;
    let public = rsa.published()["n"].as_str().unwrap().to_owned();
    for (kid, algorithm, key) in [
        // A secret that everybody knows.
        (
            "one",
            Algorithm::HS256,
            EncodingKey::from_secret(public.as_bytes()),
        ),
        (
            "two",
            Algorithm::HS256,
            EncodingKey::from_secret(public.as_bytes()),
        ),
        ("one", Algorithm::PS256, RSA.clone()),
        ("one", Algorithm::RS512, RSA.clone()),
        // The right algorithm of another key.
        ("two", Algorithm::RS256, RSA.clone()),
        ("one", Algorithm::ES256, p256.key.clone()),
    ] {
        let kid = Some(kid);
        let token = Signer {
            kid,
            algorithm,
            key,
        }
        .sign(&good());
        let (name, detail) = refused(&tokens, &token).await;
        assert_eq!(name, "token-invalid");
        assert!(detail.contains("`alg`"), "{detail}");
    }
    // {"alg":"none"}, and no signature.
    let token = rsa.sign(&good());
    let claims = token.split('.').nth(1).unwrap();
    for unsigned in [
        format!("eyJhbGciOiJub25lIn0.{claims}."),
        format!("eyJhbGciOiJub25lIiwia2lkIjoib25lIn0.{claims}.AAAA"),
    ] {
        assert!(looks_like_one(&unsigned));
        assert_eq!(refused(&tokens, &unsigned).await.0, "token-invalid");
    }
}

#[tokio::test]
async fn a_signature_is_of_the_whole_token_and_of_a_published_key() {
    let (signer, stranger) = (Signer::p256("one"), Signer::p256("one"));
    let (_, tokens) = issuer(&[&signer], LONG, LONG).await;
    let (_, detail) = refused(&tokens, &stranger.sign(&good())).await;
    assert!(detail.contains("signature"), "{detail}");

    let token = signer.sign(&good());
    let richer = signer.sign(&claims(json!({"workspaces": "theirs"})));
    let part = |token: &str, index| token.split('.').nth(index).unwrap().to_owned();
    let swapped = [part(&token, 0), part(&richer, 1), part(&token, 2)].join(".");
    let (_, detail) = refused(&tokens, &swapped).await;
    assert!(detail.contains("signature"), "{detail}");

    for broken in [
        "..",
        "a.b.c",
        &token[1..],
        &format!("{}.x.y", part(&token, 0)),
    ] {
        assert_eq!(
            refused(&tokens, broken).await.0,
            "token-invalid",
            "{broken}"
        );
    }
    assert!(!looks_like_one("a.b") && !looks_like_one("a.b.c.d"));
}

#[tokio::test]
async fn what_a_header_calls_critical_is_not_passed_over() {
    let signer = Signer::p256("one");
    let (_, tokens) = issuer(&[&signer], LONG, LONG).await;
    let mut header = Header::new(signer.algorithm);
    header.kid = signer.kid.map(str::to_owned);
    header.crit = Some(vec!["exp".to_owned()]);
    let token = encode(&header, &good(), &signer.key).unwrap();
    let (_, detail) = refused(&tokens, &token).await;
    assert!(detail.contains("extensions"), "{detail}");
}

#[tokio::test]
async fn a_token_names_its_key_unless_there_is_but_one() {
    let (mut one, two) = (Signer::p256("one"), Signer::p256("two"));
    let (published, tokens) = issuer(&[&one], LONG, NO_WAIT).await;
    one.kid = None;
    tokens.principal(&one.sign(&good())).await.unwrap();

    one.kid = Some("one");
    published.set(&[&one, &two]);
    tokens.principal(&two.sign(&good())).await.unwrap();
    one.kid = None;
    let (_, detail) = refused(&tokens, &one.sign(&good())).await;
    assert!(detail.contains("`kid`"), "{detail}");
}

#[tokio::test]
async fn keys_rotate_without_a_restart() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let (published, tokens) = issuer(&[&old], NO_WAIT, NO_WAIT).await;
    let token = old.sign(&good());
    tokens.principal(&token).await.unwrap();

    // A key that is not known is looked for at once.
    published.set(&[&old, &new]);
    tokens.principal(&new.sign(&good())).await.unwrap();
    tokens.principal(&token).await.unwrap();

    // A key that was taken back counts no more, once the keys were read anew.
    published.set(&[&new]);
    let (_, detail) = refused(&tokens, &token).await;
    assert!(detail.contains("does not publish"), "{detail}");

    // Another key by the same name verifies nothing of the old one's.
    let other = Signer::p256("new");
    let token = new.sign(&good());
    tokens.principal(&token).await.unwrap();
    published.set(&[&other]);
    let (_, detail) = refused(&tokens, &token).await;
    assert!(detail.contains("signature"), "{detail}");
    published.set(&[&new]);
    tokens.principal(&new.sign(&good())).await.unwrap();
}

#[tokio::test]
async fn a_token_expires_although_it_was_verified_before() {
    let signer = Signer::p256("one");
    let (_, tokens) = issuer(&[&signer], LONG, LONG).await;
    // Two seconds within the leeway of 30 s.
    let token = signer.sign(&claims(json!({"exp": clock::now().timestamp() - 28})));
    tokens.principal(&token).await.unwrap();
    let expired = async || tokens.principal(&token).await.is_err();
    eventually("the token expires", expired).await;
    assert_eq!(refused(&tokens, &token).await.0, "token-expired");
}

#[tokio::test]
async fn unknown_keys_do_not_make_the_issuer_busy() {
    let (known, unknown) = (Signer::p256("known"), Signer::p256("unknown"));
    let (published, tokens) = issuer(&[&known], LONG, LONG).await;
    let token = unknown.sign(&good());
    let tries = (0..20).map(|_| refused(&tokens, &token));
    for (name, _) in futures_util::future::join_all(tries).await {
        assert_eq!(name, "token-invalid");
    }
    assert_eq!(published.reads(), 1);
    tokens.principal(&known.sign(&good())).await.unwrap();
    assert_eq!(published.reads(), 1);
}

#[tokio::test]
async fn concurrent_requests_wait_for_one_fetch() {
    let signer = Signer::p256("one");
    let (published, tokens) = issuer(&[&signer], LONG, LONG).await;
    let token = signer.sign(&good());
    let tries = (0..20).map(|_| tokens.principal(&token));
    for principal in futures_util::future::join_all(tries).await {
        principal.unwrap();
    }
    assert_eq!(published.reads(), 1);
}

#[tokio::test]
async fn keys_count_on_while_the_issuer_is_away() {
    let signer = Signer::p256("one");
    let (published, tokens) = issuer(&[&signer], NO_WAIT, NO_WAIT).await;
    let token = signer.sign(&good());
    tokens.principal(&token).await.unwrap();
    let elsewhere = [(header::LOCATION, "/other")];
    let large = "x".repeat(1024 * 1024);
    for answer in [
        StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        (StatusCode::FOUND, elsewhere).into_response(),
        axum::Json(json!({"keys": []})).into_response(),
        axum::Json(json!({"keys": [{"kty": "RSA", "n": large, "e": "AQAB"}]})).into_response(),
        "<html>".into_response(),
    ] {
        let reads = published.reads();
        published.answer_once(answer);
        tokens.principal(&token).await.unwrap();
        assert_eq!(published.reads(), reads + 1);
    }
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_holds_no_token_whose_key_is_known() {
    let signer = Signer::p256("one");
    let (published, tokens) = issuer(&[&signer], NO_WAIT, NO_WAIT).await;
    let token = signer.sign(&good());
    tokens.principal(&token).await.unwrap();
    published.hang();
    let begun = Instant::now();
    tokens.principal(&token).await.unwrap();
    // A fetch is given up after 5 s.
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(published.reads(), 2);
}

#[tokio::test]
async fn without_any_keys_nothing_can_be_said_yet() {
    let signer = Signer::p256("one");
    let (published, tokens) = issuer(&[&signer], LONG, NO_WAIT).await;
    published.answer_once(StatusCode::BAD_GATEWAY);
    let token = signer.sign(&good());
    let (name, _) = refused(&tokens, &token).await;
    assert_eq!(name, "credentials-unverifiable");
    tokens.principal(&token).await.unwrap();

    let nowhere = config("http://127.0.0.1:9/keys", LONG);
    let mut problems = Problems::default();
    nowhere.validate(&mut problems);
    assert_eq!(problems, Problems::default());
    let (name, _) = refused(&Tokens::of(&nowhere).unwrap(), &token).await;
    assert_eq!(name, "credentials-unverifiable");
}
