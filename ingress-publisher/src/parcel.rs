//! A parcel: one message for an ingress partition, encoded and ready to be published or put aside.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::amqp::Message;
use shared_model::topology;

/// A message for an ingress partition; which one, its queue or spool knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// The same for the same content, however often it is sent.
    pub(crate) message_id: String,
    /// The body's media type.
    pub(crate) content_type: Cow<'static, str>,
    /// Readable attributes.
    pub(crate) headers: BTreeMap<String, String>,
    /// The content.
    pub(crate) body: Bytes,
}

impl Parcel {
    /// The message that takes this parcel to `partition`.
    pub(crate) fn message(&self, partition: u32) -> Message {
        Message {
            exchange: topology::INGRESS_EXCHANGE,
            routing_key: topology::ingress_routing_key(partition),
            message_id: self.message_id.clone(),
            content_type: self.content_type.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
        }
    }

    /// Bytes that it takes in memory, without the structures around them.
    pub(crate) fn len(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        self.message_id.len() + self.content_type.len() + headers + self.body.len()
    }
}
