//! What PostgreSQL announces, on a connection that is kept for it.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;

use crate::backoff::Backoff;
use crate::telemetry::chain;

const SOONEST: Duration = Duration::from_millis(200);
const LATEST: Duration = Duration::from_secs(5);

/// Tells `heard` of each announcement, by the name of its channel. Whenever it begins to listen, `heard` is
/// told nothing: what was announced before then, the first time or while a connection was lost, was not
/// heard, and has to be looked for.
///
/// Goes on for ever, through a connection of `pool`. While there is none, nobody is told; so whoever is to
/// be told looks by themselves from time to time.
pub async fn listen(pool: &PgPool, channels: &[&str], heard: impl Fn(Option<&str>)) {
    let mut backoff = Backoff::new(SOONEST, LATEST);
    loop {
        let listening = async {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen_all(channels.iter().copied()).await?;
            backoff.reset();
            heard(None);
            // None once the connection is lost. To receive on would connect anew without a word.
            while let Some(told) = listener.try_recv().await? {
                heard(Some(told.channel()));
            }
            Ok::<_, sqlx::Error>(())
        };
        match listening.await {
            Ok(()) => tracing::warn!(?channels, "no announcements: the connection was lost"),
            Err(error) => tracing::warn!(?channels, error = %chain(&error), "no announcements"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
