//! The words that answers use, as closed sets of the description.

use shared_model::control::StreamState;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use crate::acceptance::verdict::FrameVerdict;
use crate::decide::Verdict;
use crate::interpret::known_providers;

/// A text that is one of `words`.
fn one_of<'a>(means: &str, words: impl IntoIterator<Item = &'a str>) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(means))
        .enum_values(Some(words.into_iter().collect::<Vec<_>>()))
        .build()
}

/// A provider that there is code for.
pub fn known_provider() -> Object {
    one_of("The provider's protocol.", known_providers())
}

/// What a feed is doing.
pub fn feed_state() -> Object {
    let means = "`behind`: the provider has more already; `limited`: the budget is used up; `refused`: by \
                 the provider, so nothing is asked for long; `paused`: until it is resumed";
    let words = ["ok", "behind", "limited", "failing", "refused", "paused"];
    one_of(means, words)
}

/// What a stream is doing.
pub fn stream_state() -> Object {
    let means = "What the stream is doing; `unowned` where nobody reads it, `assigned` where the owner has \
                 not said anything yet";
    let words = ["unowned", "assigned"];
    one_of(
        means,
        words
            .into_iter()
            .chain(StreamState::ALL.map(StreamState::name)),
    )
}

/// What became of an observation.
pub fn observation_verdict() -> Object {
    let means = "`accepted`: it is the state; `duplicate`: it was known; `stale`: something newer was known; \
                 `conflict`: of the same time another value was known, which wins; `no_value`: the signal \
                 had no value";
    let words = Verdict::ALL.map(Verdict::name);
    one_of(
        means,
        words.into_iter().chain([FrameVerdict::NoValue.name()]),
    )
}

/// What became of a frame.
pub fn frame_verdict() -> Object {
    let means = "`accepted`: at least one observation is the state now; `duplicate`: nothing that was not \
                 known; `stale`: something newer was known; `conflict`: of the same time another value was \
                 known, which wins; `no_value`: it holds no value of any signal; `parked`: it cannot be \
                 read and is kept, with the reason";
    one_of(means, FrameVerdict::ALL.map(FrameVerdict::name))
}

/// How a body is written.
pub fn encoding() -> Object {
    one_of(
        "`text`: as it is; `base64`: it is no UTF-8",
        ["text", "base64"],
    )
}
