//! The envelope: what crosses the ingress queue.
//!
//! The attributes travel as AMQP headers, where an operator reads them in the management UI; the
//! body holds the frames verbatim, each behind a line that says what it is:
//!
//! ```text
//! NUMBER RECEIVED_AT_UNIX_MICROS text|binary LENGTH [ORIGIN]\n
//! …LENGTH bytes, as the provider sent them…\n
//! ```
//!
//! A newer minor version may add headers, and words at the end of a frame's line; both are ignored
//! here. A newer major version is refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use bytes::{BufMut, Bytes, BytesMut};
use chrono::Datelike;
use rangemap::RangeInclusiveSet;

use crate::frame::{Frame, FrameKind, FrameOrigin};
use crate::headers;
use crate::id::{ConnectionId, Provider, SessionId, WorkspaceId};
use crate::time;
use crate::version::Version;

/// The version that this code writes.
pub const VERSION: Version = Version { major: 1, minor: 1 };

/// The body's media type, for the message's `content_type`.
pub const CONTENT_TYPE: &str = "application/vnd.headrace.frames";

/// The most ranges of replaced frames in one envelope: an AMQP header has to fit one frame of the
/// protocol, 128 KiB, with all others.
pub const MOST_CONFLATED: usize = 1000;

/// Frame numbers that every reader can store: PostgreSQL counts in signed 64 bits.
const NUMBERS: RangeInclusive<u64> = 1..=(i64::MAX as u64 - 1);
/// Partitions that every reader can store.
const PARTITIONS: RangeInclusive<u32> = 0..=(i32::MAX as u32);
/// Years of receipt that can be true, and that every reader can store.
pub(crate) const YEARS: RangeInclusive<i32> = 2000..=9999;

/// What all frames of an envelope have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The provider's protocol.
    pub provider: Provider,
    /// Whose data these are.
    pub workspace: WorkspaceId,
    /// The connection that they came over.
    pub connection: ConnectionId,
    /// The socket's life that they were numbered in.
    pub session: SessionId,
    /// The owner epoch that they were read under.
    pub epoch: u64,
    /// The publisher instance that read them.
    pub owner: String,
}

/// One or more frames of one session and partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What the frames have in common.
    pub attributes: Attributes,
    /// The partition that the frames were numbered for, in which they travel.
    pub partition: u32,
    /// The frames, at least one, in the order of their numbers.
    pub frames: Vec<Frame>,
    /// Numbers of frames of the same session and partition that newer ones replaced before they were
    /// sent; at most [`MOST_CONFLATED`] ranges. They are never sent.
    pub conflated: RangeInclusiveSet<u64>,
}

/// Why a message is not an envelope that this code can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A header is missing.
    #[error("header {0} is missing")]
    HeaderMissing(&'static str),
    /// A header holds something else than it should.
    #[error("header {name} is {value:?}, which is not valid: {rule}")]
    HeaderInvalid {
        /// Which header.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        rule: String,
    },
    /// A format from the future.
    #[error("envelope version {found} is not known here (known: {}.x)", VERSION.major)]
    VersionUnknown {
        /// The version that the message states.
        found: Version,
    },
    /// The body's framing is broken.
    #[error("body is not a sequence of frames at byte {at}: {rule}")]
    BodyInvalid {
        /// Offset of the frame's line in the body.
        at: usize,
        /// What was expected there.
        rule: &'static str,
    },
}

impl Envelope {
    /// The message id: the same for the same frames however often they are sent.
    #[must_use]
    pub fn message_id(&self) -> String {
        let first = self.frames.first().map_or(0, |frame| frame.number);
        let last = self.frames.last().map_or(0, |frame| frame.number);
        format!(
            "{}/{}/{first}-{last}",
            self.attributes.session, self.partition
        )
    }

    /// The headers to send with [`Envelope::encode_body`].
    #[must_use]
    pub fn encode_headers(&self) -> BTreeMap<String, String> {
        let a = &self.attributes;
        let conflated = (!self.conflated.is_empty())
            .then(|| (headers::CONFLATED, encode_ranges(&self.conflated)));
        [
            (headers::ENVELOPE_VERSION, VERSION.to_string()),
            (headers::PROVIDER, a.provider.to_string()),
            (headers::WORKSPACE, a.workspace.to_string()),
            (headers::CONNECTION, a.connection.to_string()),
            (headers::SESSION, a.session.to_string()),
            (headers::PARTITION, self.partition.to_string()),
            (headers::EPOCH, a.epoch.to_string()),
            (headers::OWNER, a.owner.clone()),
            (headers::FRAMES, self.frames.len().to_string()),
        ]
        .into_iter()
        .chain(conflated)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// The frames as a message body.
    #[must_use]
    pub fn encode_body(&self) -> Bytes {
        let size = self.frames.iter().map(|frame| frame.body.len() + 64).sum();
        let mut body = BytesMut::with_capacity(size);
        for frame in &self.frames {
            let mut line = String::with_capacity(64);
            // Writing to a String cannot fail.
            write!(
                line,
                "{} {} {} {}",
                frame.number,
                frame.received_at.timestamp_micros(),
                frame.kind.tag(),
                frame.body.len()
            )
            .unwrap_or_default();
            if frame.origin != FrameOrigin::Live {
                write!(line, " {}", frame.origin.name()).unwrap_or_default();
            }
            line.push('\n');
            body.put_slice(line.as_bytes());
            body.put_slice(&frame.body);
            body.put_u8(b'\n');
        }
        body.freeze()
    }

    /// Reads a message. The frames share `body`'s memory.
    pub fn decode(headers: &BTreeMap<String, String>, body: &Bytes) -> Result<Self, EnvelopeError> {
        Ok(Self {
            attributes: decode_attributes(headers)?,
            partition: parse(headers, headers::PARTITION, |text| {
                let partition = text.parse().ok().filter(|n| PARTITIONS.contains(n));
                partition.ok_or("expected a partition's number")
            })?,
            frames: decode_frames(body)?,
            conflated: if headers.contains_key(headers::CONFLATED) {
                parse(headers, headers::CONFLATED, decode_ranges)?
            } else {
                RangeInclusiveSet::new()
            },
        })
    }
}

/// Ranges as `3-5,9`.
fn encode_ranges(ranges: &RangeInclusiveSet<u64>) -> String {
    let written = ranges
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (start, end) if start == end => start.to_string(),
            (start, end) => format!("{start}-{end}"),
        });
    written.collect::<Vec<_>>().join(",")
}

fn decode_ranges(text: &str) -> Result<RangeInclusiveSet<u64>, &'static str> {
    let number = |text: &str| text.parse().ok().filter(|number| NUMBERS.contains(number));
    let range = |text: &str| {
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        let range = number(start)?..=number(end)?;
        (!range.is_empty()).then_some(range)
    };
    let ranges: Option<_> = text.split(',').map(range).collect();
    ranges.ok_or("expected numbers and ranges of frames, such as 3-5,9")
}

fn decode_attributes(headers: &BTreeMap<String, String>) -> Result<Attributes, EnvelopeError> {
    let version: Version = parse(headers, headers::ENVELOPE_VERSION, |text| {
        Version::parse(text).ok_or("expected major.minor")
    })?;
    if version.major != VERSION.major {
        return Err(EnvelopeError::VersionUnknown { found: version });
    }
    Ok(Attributes {
        provider: parse(headers, headers::PROVIDER, str::parse)?,
        workspace: parse(headers, headers::WORKSPACE, str::parse)?,
        connection: parse(headers, headers::CONNECTION, str::parse)?,
        session: parse(headers, headers::SESSION, str::parse)?,
        epoch: parse(headers, headers::EPOCH, str::parse)?,
        owner: headers.get(headers::OWNER).cloned().unwrap_or_default(),
    })
}

fn parse<T, E: ToString>(
    headers: &BTreeMap<String, String>,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, EnvelopeError> {
    let value = headers
        .get(name)
        .ok_or(EnvelopeError::HeaderMissing(name))?;
    parse(value).map_err(|error| EnvelopeError::HeaderInvalid {
        name,
        value: value.clone(),
        rule: error.to_string(),
    })
}

fn decode_frames(body: &Bytes) -> Result<Vec<Frame>, EnvelopeError> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let (frame, next) =
            decode_frame(body, at).map_err(|rule| EnvelopeError::BodyInvalid { at, rule })?;
        frames.push(frame);
        at = next;
    }
    if frames.is_empty() {
        return Err(EnvelopeError::BodyInvalid {
            at: 0,
            rule: "at least one frame",
        });
    }
    Ok(frames)
}

/// The frame whose line starts at `at`, and where the next one starts.
fn decode_frame(body: &Bytes, at: usize) -> Result<(Frame, usize), &'static str> {
    // A line of this version has at most 60 bytes; newer minor versions get room to add words.
    const LONGEST_LINE: usize = 1024;
    let rest = &body[at..];
    let end = rest
        .iter()
        .take(LONGEST_LINE)
        .position(|&byte| byte == b'\n')
        .ok_or("a line of a frame's number, time, kind and length")?;
    let line = std::str::from_utf8(&rest[..end]).map_err(|_| "the frame's line in UTF-8")?;
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();

    let number = word()
        .parse()
        .ok()
        .filter(|number| NUMBERS.contains(number));
    let number = number.ok_or("the frame's number, from 1")?;
    let received_at = word().parse().ok().and_then(time::from_unix_micros);
    let received_at = received_at
        .filter(|at| YEARS.contains(&at.year()))
        .ok_or("the time of receipt in microseconds, from the year 2000 to 9999")?;
    let kind = FrameKind::from_tag(word()).ok_or("the frame's kind, text or binary")?;
    let length: usize = word().parse().map_err(|_| "the frame's length")?;
    let origin = FrameOrigin::from_name(word());

    let start = at + end + 1;
    let stop = start.checked_add(length).filter(|&stop| stop < body.len());
    let stop = stop.ok_or("as many bytes as the frame's line says")?;
    if body[stop] != b'\n' {
        return Err("a line break after the frame");
    }
    Ok((
        Frame {
            number,
            received_at,
            kind,
            origin,
            body: body.slice(start..stop),
        },
        stop + 1,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes() -> Attributes {
        Attributes {
            provider: Provider::new("viriciti").unwrap(),
            workspace: WorkspaceId::new("demo").unwrap(),
            connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            session: "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap(),
            epoch: 3,
            owner: "publisher-0".to_owned(),
        }
    }

    fn frame(number: u64, body: &[u8]) -> Frame {
        Frame {
            number,
            received_at: time::from_unix_micros(1_511_436_694_000_123).unwrap(),
            kind: FrameKind::Text,
            origin: FrameOrigin::Live,
            body: Bytes::copy_from_slice(body),
        }
    }

    fn envelope() -> Envelope {
        Envelope {
            attributes: attributes(),
            partition: 2,
            frames: vec![frame(7, b"{}"), frame(8, b"a\nb")],
            conflated: RangeInclusiveSet::new(),
        }
    }

    #[test]
    fn the_wire_format_is_pinned() {
        let envelope = envelope();
        assert_eq!(
            envelope.encode_body(),
            "7 1511436694000123 text 2\n{}\n8 1511436694000123 text 3\na\nb\n"
        );
        insta::assert_json_snapshot!(envelope.encode_headers());
        assert_eq!(
            envelope.message_id(),
            "01890a5d-ac96-774b-bcce-b302099a8058/2/7-8"
        );
    }

    #[test]
    fn a_newer_minor_version_may_add_headers_and_words() {
        let mut headers = envelope().encode_headers();
        headers.insert(headers::ENVELOPE_VERSION.to_owned(), "1.9".to_owned());
        headers.insert("headrace-colour".to_owned(), "blue".to_owned());
        let body = Bytes::from("7 1511436694000123 text 2 live blue\n{}\n");
        assert_eq!(
            Envelope::decode(&headers, &body).unwrap().frames,
            [frame(7, b"{}")]
        );
    }

    #[test]
    fn a_frame_that_was_asked_for_is_marked() {
        for (origin, body) in [
            (FrameOrigin::State, "7 1511436694000123 text 2 state\n{}\n"),
            (
                FrameOrigin::Backfill,
                "7 1511436694000123 text 2 backfill\n{}\n",
            ),
        ] {
            let mut envelope = envelope();
            envelope.frames = vec![Frame {
                origin,
                ..frame(7, b"{}")
            }];
            assert_eq!(envelope.encode_body(), body);
            let decoded = Envelope::decode(&envelope.encode_headers(), &envelope.encode_body());
            assert_eq!(decoded.unwrap(), envelope);
        }
    }

    #[test]
    fn replaced_frames_are_named_by_ranges() {
        let mut envelope = envelope();
        envelope.conflated = [3..=5, 9..=9, 4..=6].into_iter().collect();
        let mut headers = envelope.encode_headers();
        assert_eq!(headers[headers::CONFLATED], "3-6,9");
        let decoded = Envelope::decode(&headers, &envelope.encode_body());
        assert_eq!(decoded.unwrap(), envelope);
        for wrong in [
            "",
            "5-3",
            "0",
            "1,,2",
            "1-2-3",
            "x",
            "1-9223372036854775807",
        ] {
            headers.insert(headers::CONFLATED.to_owned(), wrong.to_owned());
            let error = Envelope::decode(&headers, &envelope.encode_body()).unwrap_err();
            assert!(error.to_string().contains("3-5,9"), "{wrong}: {error}");
        }
    }

    #[test]
    fn the_most_ranges_fit_a_header() {
        let mut envelope = envelope();
        let last = *NUMBERS.end();
        let ranges = (0..MOST_CONFLATED as u64).map(|n| last - 3 * n - 1..=last - 3 * n);
        envelope.conflated = ranges.collect();
        let header = &envelope.encode_headers()[headers::CONFLATED];
        assert!(header.len() < 64 * 1024, "{}", header.len());
    }

    #[test]
    fn an_unknown_major_version_is_refused_with_the_reason() {
        let mut headers = envelope().encode_headers();
        headers.insert(headers::ENVELOPE_VERSION.to_owned(), "2.0".to_owned());
        let error = Envelope::decode(&headers, &envelope().encode_body()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "envelope version 2.0 is not known here (known: 1.x)"
        );
    }

    #[test]
    fn a_missing_or_wrong_header_is_named() {
        for name in [
            headers::ENVELOPE_VERSION,
            headers::WORKSPACE,
            headers::SESSION,
        ] {
            let mut headers = envelope().encode_headers();
            headers.remove(name);
            let error = Envelope::decode(&headers, &envelope().encode_body()).unwrap_err();
            assert_eq!(error, EnvelopeError::HeaderMissing(name));
            headers.insert(name.to_owned(), "?".to_owned());
            let error = Envelope::decode(&headers, &envelope().encode_body()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_broken_body_says_where() {
        let headers = envelope().encode_headers();
        for (body, at) in [
            ("", 0),
            ("7 1511436694000123 text 2\n{}", 0),
            ("7 1511436694000123 text 99\n{}\n", 0),
            ("7 1511436694000123 text 18446744073709551615\n{}\n", 0),
            (
                "7 1511436694000123 text 2\n{}\nx 1511436694000123 text 2\n{}\n",
                29,
            ),
            ("7 1511436694000123 smell 2\n{}\n", 0),
            ("7 1511436694000123 text 1\n{}\n", 0),
            ("0 1511436694000123 text 2\n{}\n", 0),
            ("9223372036854775807 1511436694000123 text 2\n{}\n", 0),
            ("7 1 text 2\n{}\n", 0),
            ("7 9223372036854775807 text 2\n{}\n", 0),
        ] {
            match Envelope::decode(&headers, &Bytes::from_static(body.as_bytes())) {
                Err(EnvelopeError::BodyInvalid { at: found, .. }) => {
                    assert_eq!(found, at, "{body}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_frames_survive(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20)) {
            let frames = (1..).zip(&bodies).map(|(number, body)| frame(number, body)).collect();
            let envelope = Envelope { frames, ..envelope() };
            let decoded = Envelope::decode(&envelope.encode_headers(), &envelope.encode_body());
            prop_assert_eq!(decoded.unwrap(), envelope);
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let read = Envelope::decode(&envelope().encode_headers(), &Bytes::from(body));
            prop_assert!(read.is_err() || !read.unwrap().frames.is_empty());
        }
    }
}
