//! A record: a parcel as bytes, with the time it was put aside and a checksum of all of it.
//!
//! ```text
//! checksum: u64 LE, XXH3-64 of all that follows | head length: u32 LE | head: JSON | body
//! ```
//!
//! The store has checksums of its own, but looks at them only after a crash; bits that rot in a file
//! that was closed well are noticed by ours.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::parcel::Parcel;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// It has fewer bytes than it says.
    #[error("the record is cut short")]
    Short,
    /// It is not what was written.
    #[error("the record's checksum does not match")]
    Checksum,
    /// It was written as it is, by something else.
    #[error("the record's head cannot be read: {0}")]
    Head(String),
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    content_type: Cow<'a, str>,
    headers: Cow<'a, BTreeMap<String, String>>,
    at: DateTime<Utc>,
}

/// `parcel`, put aside at `at`, as bytes.
pub(crate) fn encode(parcel: &Parcel, at: DateTime<Utc>) -> Vec<u8> {
    let head = Head {
        message_id: Cow::Borrowed(&parcel.message_id),
        content_type: Cow::Borrowed(&parcel.content_type),
        headers: Cow::Borrowed(&parcel.headers),
        at,
    };
    // Texts and a time: nothing in it can fail to be JSON.
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
    let mut record = Vec::with_capacity(12 + head.len() + parcel.body.len());
    record.extend_from_slice(&[0; 8]);
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&head);
    record.extend_from_slice(&parcel.body);
    let checksum = xxh3_64(&record[8..]);
    record[..8].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// The parcel of a record, and when it was put aside.
pub(crate) fn decode(record: &[u8]) -> Result<(Parcel, DateTime<Utc>), RecordError> {
    let (checksum, content) = record.split_first_chunk().ok_or(RecordError::Short)?;
    if u64::from_le_bytes(*checksum) != xxh3_64(content) {
        return Err(RecordError::Checksum);
    }
    let (length, content) = content.split_first_chunk().ok_or(RecordError::Short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (head, body) = content.split_at_checked(length).ok_or(RecordError::Short)?;
    let head: Head<'_> =
        serde_json::from_slice(head).map_err(|error| RecordError::Head(error.to_string()))?;
    let parcel = Parcel {
        message_id: head.message_id.into_owned(),
        content_type: Cow::Owned(head.content_type.into_owned()),
        headers: head.headers.into_owned(),
        body: Bytes::copy_from_slice(body),
    };
    Ok((parcel, head.at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let record = encode(&testing::parcel("1", b"body"), runtime::clock::now());
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), Err(RecordError::Checksum), "byte {at}");
        }
        assert!(decode(&record[..record.len() - 1]).is_err());
        assert_eq!(decode(&[]), Err(RecordError::Short));
    }

    proptest! {
        #[test]
        fn any_parcel_survives(id: String, name: String, value: String, body: Vec<u8>) {
            let mut parcel = testing::parcel(&id, &body);
            parcel.headers.insert(name, value);
            let at = runtime::clock::now();
            prop_assert_eq!(decode(&encode(&parcel, at)), Ok((parcel, at)));
        }
    }
}
