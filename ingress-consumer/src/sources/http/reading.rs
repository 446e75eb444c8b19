//! Reading a request's body: bounded in size, in time, and over all requests.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::StreamExt;
use runtime::http::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::busy;

/// How long a sender may take to send a request: meanwhile it holds a part of the budget.
const PATIENCE: Duration = Duration::from_secs(30);

/// The whole body, of at most `most` bytes, and its part of `budget`.
pub async fn read(
    body: Body,
    budget: &Arc<Semaphore>,
    most: usize,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Problem> {
    tokio::time::timeout(PATIENCE, read_all(body, budget, most))
        .await
        .map_err(|_| {
            let detail = format!("the request was not sent within {PATIENCE:?}");
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail)
        })?
}

async fn read_all(
    body: Body,
    budget: &Arc<Semaphore>,
    most: usize,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Problem> {
    let take = |bytes: usize| {
        let bytes = u32::try_from(bytes).map_err(|_| busy())?;
        Arc::clone(budget)
            .try_acquire_many_owned(bytes)
            .map_err(|_| busy())
    };
    let mut held = take(0)?;
    let mut read = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            let detail = "the body ends early, or is not what its Content-Encoding says";
            Problem::bad_request("invalid-body", detail)
        })?;
        if read.len() + chunk.len() > most {
            let detail = format!(
                "the request has more than {most} bytes (ingest.max_bytes), decompressed; send it \
                 in parts"
            );
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request-too-large",
                detail,
            ));
        }
        held.merge(take(chunk.len())?);
        read.extend_from_slice(&chunk);
    }
    Ok((read, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_bounded_by_itself_and_with_all_others() {
        let budget = Arc::new(Semaphore::new(10));
        let (read, held) = super::read(Body::from("1234567"), &budget, 8)
            .await
            .unwrap();
        assert_eq!(read, b"1234567");
        assert_eq!(budget.available_permits(), 3);
        let too_large = super::read(Body::from("123456789"), &budget, 8).await;
        assert_eq!(too_large.unwrap_err().status, 413);
        let full = super::read(Body::from("1234"), &budget, 8).await;
        assert_eq!(full.unwrap_err().status, 429);
        drop(held);
        assert!(super::read(Body::from("1234"), &budget, 8).await.is_ok());
        assert_eq!(budget.available_permits(), 10);
    }
}
