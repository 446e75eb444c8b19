//! The credential that a request carries. Pure.

use axum::http::{HeaderMap, HeaderName, header};

use super::Refusal;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// No key is longer, and no token of an identity provider nearly so.
const LONGEST: usize = 16 * 1024;

/// The one credential in `headers`: a bearer token, or what `X-API-Key` holds. There may be both if they
/// are the same: where they differ, whichever was taken would surprise somebody.
pub(super) fn credential(headers: &HeaderMap) -> Result<&str, Refusal> {
    let authorization = one(
        headers,
        &header::AUTHORIZATION,
        "Authorization is sent twice",
    )?;
    let key = one(headers, &API_KEY, "X-API-Key is sent twice")?;
    let credential = match (authorization, key) {
        (Some(authorization), Some(key)) if after_bearer(authorization) != Some(key) => {
            let detail = "Authorization and X-API-Key differ; send one of them";
            return Err(Refusal::unreadable(detail));
        }
        (_, Some(key)) => key,
        (Some(authorization), None) => after_bearer(authorization)
            .ok_or_else(|| Refusal::no_credential("Authorization is no `Bearer …`"))?,
        (None, None) => {
            let detail = "send an API key or a token as `Authorization: Bearer …`";
            return Err(Refusal::no_credential(detail));
        }
    };
    if credential.len() > LONGEST {
        let detail = format!("the credential has more than {LONGEST} bytes");
        return Err(Refusal::unreadable(&detail));
    }
    Ok(credential)
}

/// The text of the header `name`, if it is there.
fn one<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    twice: &str,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::unreadable(twice));
    }
    let text = value.to_str().map(str::trim);
    let text = text.map_err(|_| Refusal::unreadable(&format!("{name} is no ASCII text")))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn after_bearer(authorization: &str) -> Option<&str> {
    let (scheme, credential) = authorization.split_once(' ')?;
    let bearer = scheme.eq_ignore_ascii_case("bearer");
    bearer.then_some(credential.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(sent: &[(&'static str, &str)]) -> Result<String, (u16, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let found = credential(&headers).map(str::to_owned);
        found.map_err(|refusal| (refusal.problem.status, refusal.problem.detail))
    }

    #[test]
    fn a_credential_comes_in_either_header() {
        for sent in [
            [("authorization", "Bearer one")].as_slice(),
            &[("authorization", "bEARER   one ")],
            &[("x-api-key", " one")],
            &[("authorization", "Bearer one"), ("x-api-key", "one")],
            &[("authorization", ""), ("x-api-key", "one")],
        ] {
            assert_eq!(read(sent), Ok("one".to_owned()), "{sent:?}");
        }
    }

    #[test]
    fn what_is_not_one_credential_is_refused() {
        for (sent, status) in [
            ([].as_slice(), 401),
            (&[("authorization", "")], 401),
            (&[("authorization", "Basic dTpw")], 401),
            (&[("authorization", "one")], 401),
            (
                &[("authorization", "Bearer one"), ("x-api-key", "two")],
                400,
            ),
            (
                &[
                    ("authorization", "Bearer one"),
                    ("authorization", "Bearer one"),
                ],
                400,
            ),
            (
                &[("authorization", "Basic dTpw"), ("x-api-key", "one")],
                400,
            ),
            (&[("x-api-key", "one"), ("x-api-key", "one")], 400),
            (&[("x-api-key", "é")], 400),
        ] {
            assert_eq!(read(sent).unwrap_err().0, status, "{sent:?}");
        }
        let long = "x".repeat(LONGEST + 1);
        let (status, detail) = read(&[("x-api-key", &long)]).unwrap_err();
        assert_eq!((status, detail.len() < 100), (400, true));
    }
}
