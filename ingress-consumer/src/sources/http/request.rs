//! What a request says. Pure.

use std::fmt;

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use chrono::{DateTime, Datelike, Utc};
use runtime::access::Principal;
use runtime::http::Problem;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use shared_model::{ConnectionId, WorkspaceId, time};
use utoipa::ToSchema;

/// Frames for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Whose data these are.
    pub workspace: WorkspaceId,
    /// The connection that they are for.
    pub connection: ConnectionId,
    /// The frames.
    pub frames: Vec<PushedFrame>,
}

/// A frame as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedFrame {
    /// The message, byte for byte.
    pub body: Bytes,
    /// When the sender received it, if it says so.
    pub received_at: Option<DateTime<Utc>>,
}

/// How envelopes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One envelope, or an array of them.
    Json,
    /// An envelope a line.
    Ndjson,
}

/// Frames for one connection.
#[derive(Deserialize, ToSchema)]
#[schema(as = IngestEnvelope)]
#[serde(deny_unknown_fields)]
pub struct RawEnvelope<'a> {
    /// Whose data these are.
    workspace: WorkspaceId,
    /// The connection that they are for, of kind `push`.
    connection: ConnectionId,
    /// The frames, in the order in which they were received.
    #[serde(borrow)]
    #[schema(value_type = Vec<RawFrame>, min_items = 1)]
    frames: &'a RawValue,
}

/// One raw message of a provider.
#[derive(Deserialize, ToSchema)]
#[schema(as = IngestFrame)]
#[serde(deny_unknown_fields)]
struct RawFrame {
    /// The message, verbatim.
    body: String,
    /// When the sender had it from its vehicle, if it knows; of the years 2000 to 9999.
    #[serde(default)]
    #[schema(pattern = "^[2-9][0-9]{3}-")]
    received_at: Option<DateTime<Utc>>,
}

/// Where in a request something is.
#[derive(Debug, Clone, Copy)]
struct Place {
    word: &'static str,
    number: usize,
    frame: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.word, self.number)?;
        match self.frame {
            Some(frame) => write!(f, ", frame {frame}"),
            None => Ok(()),
        }
    }
}

/// What the headers say about the body.
pub fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let refused = |detail: String| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Problem::new(status, "unsupported-media-type", detail)
    };
    // Encodings that are known have been taken off, with their header.
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        let detail =
            format!("Content-Encoding is {encoding:?}; write gzip or zstd, or leave it out");
        return Err(refused(detail));
    }
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/json" => Ok(Format::Json),
        "application/x-ndjson" => Ok(Format::Ndjson),
        _ => Err(refused(format!(
            "Content-Type is {content_type:?}; write application/json or application/x-ndjson"
        ))),
    }
}

/// The envelopes in `body`, with at most `most` frames in all and one at least in each.
pub fn parse(format: Format, body: &[u8], most: usize) -> Result<Vec<Envelope>, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|error| invalid(format!("byte {} is not UTF-8", error.valid_up_to())))?;
    let (word, parts) = split(format, text, most)?;
    let mut left = most;
    let mut envelopes = Vec::new();
    for (number, part) in parts {
        let place = Place {
            word,
            number,
            frame: None,
        };
        let envelope = envelope(part, place, left)?.ok_or_else(|| too_many(place, most))?;
        left -= envelope.frames.len();
        envelopes.push(envelope);
    }
    if envelopes.is_empty() {
        return Err(invalid("the request holds no frame".to_owned()));
    }
    Ok(envelopes)
}

/// Whether `principal` may deliver `envelopes`: all of them, or nothing is. Nothing about the connections
/// has been looked up before, so the refusal tells nothing of them.
pub fn allow(principal: &Principal, envelopes: &[Envelope]) -> Result<(), Problem> {
    let mut workspaces = envelopes.iter().map(|envelope| &envelope.workspace);
    let Some(workspace) = workspaces.find(|name| !principal.reaches(name.as_str())) else {
        return Ok(());
    };
    let detail = format!(
        "this credential does not reach the workspace {:?}; nothing of the request was taken",
        workspace.as_str()
    );
    let status = StatusCode::FORBIDDEN;
    Err(Problem::new(status, "workspace-forbidden", detail))
}

/// What a request's parts are called in errors, and the text of each with its number.
type Parts<'a> = (&'static str, Vec<(usize, &'a str)>);

/// Each part holds a frame, so one more of them than `most` is enough to refuse them all.
fn split(format: Format, text: &str, most: usize) -> Result<Parts<'_>, Problem> {
    match format {
        Format::Ndjson => {
            let lines = (1..).zip(text.lines());
            let lines = lines.filter(|(_, line)| !line.trim().is_empty());
            Ok(("line", lines.take(most.saturating_add(1)).collect()))
        }
        Format::Json if text.trim_start().starts_with('[') => {
            let word = "envelope";
            let parts = elements(text, most).map_err(|error| invalid(error.to_string()))?;
            let place = Place {
                word,
                number: most.saturating_add(1),
                frame: None,
            };
            let parts = parts.ok_or_else(|| too_many(place, most))?;
            let parts = parts.into_iter().map(RawValue::get);
            Ok((word, (1..).zip(parts).collect()))
        }
        Format::Json => Ok(("envelope", vec![(1, text)])),
    }
}

/// The envelope that `text` is, unless it has more than `most` frames.
fn envelope(text: &str, place: Place, most: usize) -> Result<Option<Envelope>, Problem> {
    let refused = |error: serde_json::Error| {
        invalid(format!(
            r#"{place}: {error}; write {{"workspace":"…","connection":"…","frames":[{{"body":"…"}}]}}"#
        ))
    };
    let raw: RawEnvelope<'_> = serde_json::from_str(text).map_err(refused)?;
    let Some(frames) = elements(raw.frames.get(), most).map_err(refused)? else {
        return Ok(None);
    };
    if frames.is_empty() {
        return Err(invalid(format!("{place}: the envelope holds no frame")));
    }
    let frames = (1..).zip(frames).map(|(number, frame)| {
        let place = Place {
            frame: Some(number),
            ..place
        };
        pushed_frame(frame.get(), place)
    });
    Ok(Some(Envelope {
        workspace: raw.workspace,
        connection: raw.connection,
        frames: frames.collect::<Result<_, _>>()?,
    }))
}

/// The elements of the array that `text` is, unless they are more than `most`.
fn elements(text: &str, most: usize) -> Result<Option<Vec<&RawValue>>, serde_json::Error> {
    let mut exceeded = false;
    let mut json = serde_json::Deserializer::from_str(text);
    let seed = Elements {
        most,
        exceeded: &mut exceeded,
    };
    let read = seed.deserialize(&mut json).and_then(|found| {
        json.end()?;
        Ok(found)
    });
    if exceeded {
        return Ok(None);
    }
    read.map(Some)
}

/// Reads an array and leaves off where it is too long: a small body that is compressed may unfold to
/// millions of elements, and keeping track of each takes more than its text.
struct Elements<'b> {
    most: usize,
    exceeded: &'b mut bool,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = elements.next_element::<&RawValue>()? {
            if found.len() == self.most {
                *self.exceeded = true;
                return Err(serde::de::Error::custom("too many elements"));
            }
            found.push(element);
        }
        Ok(found)
    }
}

fn too_many(place: Place, most: usize) -> Problem {
    let detail = format!(
        "{place}: the request has more than {most} frames (ingest.max_frames); send it in parts"
    );
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many-frames", detail)
}

fn pushed_frame(text: &str, place: Place) -> Result<PushedFrame, Problem> {
    let raw: RawFrame = serde_json::from_str(text).map_err(|error| {
        invalid(format!(
            r#"{place}: {error}; write {{"body":"…"}}, with "received_at" in RFC 3339 if it is known"#
        ))
    })?;
    // What is further off than this cannot be stored.
    let is_possible = |at: &DateTime<Utc>| (2000..=9999).contains(&at.year());
    if raw.received_at.as_ref().is_some_and(|at| !is_possible(at)) {
        let detail = format!("{place}: received_at is not between the years 2000 and 9999");
        return Err(invalid(detail));
    }
    Ok(PushedFrame {
        body: Bytes::from(raw.body),
        received_at: raw.received_at.map(time::to_micros),
    })
}

fn invalid(detail: String) -> Problem {
    Problem::bad_request("invalid-body", detail)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;
    use runtime::access::Workspaces;
    use serde_json::json;

    use super::*;

    const CONNECTION: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn one(bodies: &[&str]) -> String {
        let frames: Vec<_> = bodies.iter().map(|body| json!({"body": body})).collect();
        json!({"workspace": "w", "connection": CONNECTION, "frames": frames}).to_string()
    }

    fn bodies(envelopes: &[Envelope]) -> Vec<&[u8]> {
        let frames = envelopes.iter().flat_map(|envelope| &envelope.frames);
        frames.map(|frame| frame.body.as_ref()).collect()
    }

    #[test]
    fn an_envelope_an_array_and_lines_say_the_same() {
        let (first, second) = (one(&["a", "b\n\u{0}"]), one(&["c"]));
        for (format, text) in [
            (Format::Json, format!(" [{first},\n{second}]")),
            (Format::Ndjson, format!("{first}\n\n{second}\n")),
        ] {
            let envelopes = parse(format, text.as_bytes(), 3).unwrap();
            assert_eq!(bodies(&envelopes), [&b"a"[..], b"b\n\0", b"c"]);
            assert_eq!(envelopes[1].workspace.as_str(), "w");
        }
        assert_eq!(parse(Format::Json, first.as_bytes(), 3).unwrap().len(), 1);
    }

    #[test]
    fn a_request_with_one_frame_of_another_workspace_is_refused_whole() {
        let text = format!(
            "{}\n{}",
            one(&["a"]),
            one(&["b"]).replace("\"w\"", "\"other\"")
        );
        let envelopes = parse(Format::Ndjson, text.as_bytes(), 2).unwrap();
        let mut principal = Principal::internal();
        assert_eq!(allow(&principal, &envelopes), Ok(()));
        principal.workspaces = Workspaces::Of(["w".to_owned()].into());
        assert_eq!(allow(&principal, &envelopes[..1]), Ok(()));
        let problem = allow(&principal, &envelopes).unwrap_err();
        assert_eq!(problem.kind, "urn:headrace:problem:workspace-forbidden");
        assert!(problem.detail.contains("other"), "{}", problem.detail);
    }

    #[test]
    fn a_time_of_receipt_is_read_to_the_microsecond() {
        let text = format!(
            r#"{{"workspace":"w","connection":"{CONNECTION}","frames":
               [{{"body":"a","received_at":"2024-02-03T04:05:06.123456789+01:00"}}]}}"#
        );
        let envelopes = parse(Format::Json, text.as_bytes(), 1).unwrap();
        let at = envelopes[0].frames[0].received_at.unwrap();
        assert_eq!(at.to_rfc3339(), "2024-02-03T03:05:06.123456+00:00");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let good = one(&["a"]);
        for (format, text, status, parts) in [
            (
                Format::Ndjson,
                format!("{good}\n{{}}"),
                400,
                ["line 2:", "workspace"],
            ),
            (
                Format::Json,
                format!("[{good},7]"),
                400,
                ["envelope 2:", "frames"],
            ),
            (
                Format::Json,
                good.replace("body", "text"),
                400,
                ["envelope 1, frame 1:", "text"],
            ),
            (
                Format::Json,
                good.replace("\"w\"", "\"W\""),
                400,
                ["envelope 1:", "a-z"],
            ),
            (Format::Json, "[]".to_owned(), 400, ["no frame", ""]),
            (Format::Json, "{".to_owned(), 400, ["envelope 1:", "EOF"]),
            (
                Format::Json,
                one(&["a"]).replace("\"a\"", "\"a\",\"received_at\":\"1999-01-01T00:00:00Z\""),
                400,
                ["frame 1:", "2000"],
            ),
            (
                Format::Json,
                one(&["a"; 4]),
                413,
                ["envelope 1:", "ingest.max_frames"],
            ),
        ] {
            let problem = parse(format, text.as_bytes(), 3).unwrap_err();
            assert_eq!(problem.status, status, "{text}");
            for part in parts {
                assert!(problem.detail.contains(part), "{text}: {}", problem.detail);
            }
        }
        assert_eq!(parse(Format::Json, b"\xff", 3).unwrap_err().status, 400);
    }

    #[test]
    fn what_is_too_long_is_left_off_at_the_bound() {
        let ones = format!("[{}1]", "1,".repeat(1_000_000));
        let open = format!("[{}", "1,".repeat(1_000_000));
        // Nothing behind the bound is looked at, so it does not matter that the array has no end.
        assert!(elements(&open, 3).unwrap().is_none());
        let text = one(&[]).replace("[]", &ones);
        for (format, text) in [
            (Format::Json, &ones),
            (Format::Json, &text),
            (Format::Ndjson, &text),
        ] {
            let problem = parse(format, text.as_bytes(), 3).unwrap_err();
            assert_eq!(problem.status, 413, "{}", problem.detail);
        }
        let lines = format!("{}\n", one(&["a"])).repeat(4);
        let problem = parse(Format::Ndjson, lines.as_bytes(), 3).unwrap_err();
        assert_eq!(problem.status, 413);
        assert!(problem.detail.contains("line 4:"), "{}", problem.detail);
    }

    #[test]
    fn an_envelope_without_frames_is_refused() {
        let text = format!("[{},{}]", one(&["a"]), one(&[]));
        let problem = parse(Format::Json, text.as_bytes(), 3).unwrap_err();
        assert_eq!(problem.status, 400);
        assert!(problem.detail.contains("envelope 2:"), "{}", problem.detail);
    }

    #[test]
    fn a_body_says_what_it_is() {
        let headers = |name, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let of = |value| format(&headers(header::CONTENT_TYPE, value));
        assert_eq!(of("application/json; charset=utf-8"), Ok(Format::Json));
        assert_eq!(of("application/x-ndjson"), Ok(Format::Ndjson));
        assert_eq!(of("text/csv").unwrap_err().status, 415);
        assert_eq!(format(&HeaderMap::new()).unwrap_err().status, 415);
        let encoded = format(&headers(header::CONTENT_ENCODING, "br")).unwrap_err();
        assert!(encoded.detail.contains("zstd"), "{}", encoded.detail);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
            for format in [Format::Json, Format::Ndjson] {
                let read = parse(format, &body, 10);
                prop_assert!(read.is_err_and(|problem| problem.status == 400));
            }
        }
    }
}
