//! SQL of the tables `<schema>.checkpoint`: which events a projection has applied.

use sqlx::{PgConnection, Row};

use crate::offsets::{self, Offsets};
use crate::schema::Schema;

/// Keeps the set of tables from being switched until the transaction ends; a switch that is under way
/// is waited for. The first statement of every transaction that applies events, so that nobody waits
/// in a circle.
pub(crate) async fn hold(connection: &mut PgConnection, schema: Schema) -> Result<(), sqlx::Error> {
    let query = sqlx::query!("LOCK TABLE snapshot.checkpoint IN ROW EXCLUSIVE MODE");
    schema.execute(connection, query).await.map(drop)
}

/// Keeps everybody from applying events until the transaction ends. Reading goes on.
pub(crate) async fn stop_writers(
    connection: &mut PgConnection,
    schema: Schema,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query!("LOCK TABLE snapshot.checkpoint IN EXCLUSIVE MODE");
    schema.execute(connection, query).await.map(drop)
}

/// Adds `applied` to what was applied before.
pub(crate) async fn record(
    connection: &mut PgConnection,
    schema: Schema,
    applied: &Offsets,
) -> Result<(), sqlx::Error> {
    if applied.is_empty() {
        return Ok(());
    }
    let (shards, ranges): (Vec<_>, Vec<_>) = applied
        .shards()
        .map(|(shard, of)| (shard.cast_signed(), offsets::multirange(of)))
        .unzip();
    let query = sqlx::query!(
        r#"
        INSERT INTO snapshot.checkpoint AS stored (shard, applied, updated_at)
        SELECT new.shard, new.applied::int8multirange, now()
        FROM UNNEST($1::int[], $2::text[]) AS new (shard, applied)
        -- Everybody locks rows in the same order, so nobody waits in a circle.
        ORDER BY new.shard
        ON CONFLICT (shard) DO UPDATE
        SET applied = stored.applied + excluded.applied,
            updated_at = excluded.updated_at
        "#,
        &shards,
        &ranges,
    );
    schema.execute(connection, query).await.map(drop)
}

/// Replaces what was applied before by `applied`.
pub(crate) async fn replace(
    connection: &mut PgConnection,
    schema: Schema,
    applied: &Offsets,
) -> Result<(), sqlx::Error> {
    stop_writers(connection, schema).await?;
    let query = sqlx::query!("DELETE FROM snapshot.checkpoint");
    schema.execute(connection, query).await?;
    record(connection, schema, applied).await
}

/// What was applied.
pub(crate) async fn load(
    connection: &mut PgConnection,
    schema: Schema,
) -> Result<Offsets, sqlx::Error> {
    let query = sqlx::query!(
        r#"
        SELECT checkpoint.shard AS "shard!",
            lower(range) AS "first!",
            upper(range) AS "end!"
        FROM snapshot.checkpoint, unnest(applied) AS range
        "#
    );
    let mut applied = Offsets::default();
    for row in schema.fetch_all(connection, query).await? {
        let shard: i32 = row.try_get(0)?;
        let (first, end): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        // The shard is checked by the table, and offsets are those that `Position` lets through.
        let range = first.cast_unsigned()..=end.cast_unsigned() - 1;
        applied.insert_range(shard.cast_unsigned(), range);
    }
    Ok(applied)
}

/// Which of `tables` are not in `schema`, as `schema.table`.
pub(crate) async fn missing(
    connection: &mut PgConnection,
    schema: Schema,
    tables: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    let names: Vec<_> = tables
        .iter()
        .map(|table| format!("{}.{table}", schema.0))
        .collect();
    sqlx::query_scalar!(
        r#"SELECT name AS "name!" FROM UNNEST($1::text[]) AS name WHERE to_regclass(name) IS NULL"#,
        &names,
    )
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, health, snapshot};

    #[tokio::test]
    async fn replicas_add_to_one_another_in_any_schema() {
        for migrations in [&snapshot::MIGRATIONS, &health::MIGRATIONS] {
            let pool = fixture::pool(migrations).await;
            let mut connection = pool.acquire().await.unwrap();
            let schema = Schema(migrations.schema);
            let mut expected = Offsets::default();
            for (shard, range) in [(0, 1..=200), (1, 7..=9), (0, 401..=500), (0, 201..=400)] {
                let mut batch = Offsets::default();
                batch.insert_range(shard, range.clone());
                expected.insert_range(shard, range);
                for _ in 0..2 {
                    record(&mut connection, schema, &batch).await.unwrap();
                }
                assert_eq!(load(&mut connection, schema).await.unwrap(), expected);
            }
            assert_eq!(expected.checkpoint(0), 500);
            let tables = ["vehicle", "checkpoint", "nothing"];
            let missing = missing(&mut connection, schema, &tables).await.unwrap();
            assert_eq!(missing, [format!("{}.nothing", schema.0)]);
        }
    }
}
