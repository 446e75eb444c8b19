//! Parked frames that were replayed.

use sqlx::PgConnection;

use super::{ParkedFrame, StoreError, without_nul};

/// Removes the frames `replayed`, except those that are parked `again`: these stay, with the reason of
/// now. What was discarded in the meantime stays discarded.
pub async fn settle(
    pg: &mut PgConnection,
    replayed: &[String],
    again: &[ParkedFrame],
) -> Result<(), StoreError> {
    let staying: Vec<_> = again.iter().map(|frame| frame.identity.clone()).collect();
    sqlx::query!(
        "DELETE FROM core.parked_frame
         WHERE id IN (
             SELECT id
             FROM core.parked_frame
             WHERE identity = ANY($1) AND NOT identity = ANY($2)
             ORDER BY id
             FOR UPDATE
         )",
        replayed,
        &staying,
    )
    .execute(&mut *pg)
    .await?;
    if again.is_empty() {
        return Ok(());
    }
    let workspaces: Vec<_> = again
        .iter()
        .map(|frame| Some(frame.origin.as_ref()?.workspace.as_ref()?.to_string()))
        .collect();
    let reasons: Vec<_> = again.iter().map(|frame| frame.reason.to_owned()).collect();
    let details: Vec<_> = again
        .iter()
        .map(|frame| without_nul(&frame.detail))
        .collect();
    let fingerprints: Vec<_> = again.iter().map(ParkedFrame::fingerprint).collect();
    sqlx::query!(
        "UPDATE core.parked_frame AS parked
         SET workspace = again.workspace,
             reason = again.reason,
             detail = again.detail,
             fingerprint = again.fingerprint,
             attempts = parked.attempts + 1
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[])
              AS again (identity, workspace, reason, detail, fingerprint)
         WHERE parked.identity = again.identity",
        &staying,
        &workspaces as &[Option<String>],
        &reasons,
        &details,
        &fingerprints,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Removes a message whose frames are accepted; false if it was removed before.
pub async fn remove(pg: &mut PgConnection, id: i64) -> Result<bool, StoreError> {
    let removed = sqlx::query!("DELETE FROM core.parked_frame WHERE id = $1", id)
        .execute(pg)
        .await?;
    Ok(removed.rows_affected() == 1)
}

/// Counts an attempt at what cannot be read still, for `reason`.
pub async fn park_again(
    pg: &mut PgConnection,
    id: i64,
    reason: &str,
    detail: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE core.parked_frame
         SET reason = $2, detail = $3, attempts = attempts + 1
         WHERE id = $1",
        id,
        reason,
        without_nul(detail),
    )
    .execute(pg)
    .await?;
    Ok(())
}
