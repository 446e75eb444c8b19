//! A second set of a projection's tables: made, put in the place of the live one, dropped.
//!
//! The migrations are the only place that says what the tables look like. The second set is what they
//! make in a schema of another name.

use runtime::db::Migrations;
use sqlx::{AssertSqlSafe, PgConnection};

/// The two sets of one projection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableSets {
    /// What makes the live set, in its schema.
    pub(crate) migrations: &'static Migrations,
    /// The schema of the second set.
    pub(crate) second: &'static str,
    /// The tables of either.
    pub(crate) tables: &'static [&'static str],
}

impl TableSets {
    /// Makes the second set, without rows, in place of one that was left behind.
    pub(crate) async fn make_second(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let Self {
            migrations, second, ..
        } = self;
        let mut script = format!("DROP SCHEMA IF EXISTS {second} CASCADE; CREATE SCHEMA {second};");
        for migration in (migrations.migrator)().iter() {
            let live = format!("{}.", migrations.schema);
            let sql = migration.sql.as_str();
            script.push_str(&sql.replace(&live, &format!("{second}.")));
            script.push_str("\n;");
        }
        run(connection, script).await
    }

    /// Drops the second set.
    pub(crate) async fn drop_second(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let script = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.second);
        run(connection, script).await
    }

    /// Puts the second set in the place of the live one, which is dropped. In the caller's transaction;
    /// statements that were prepared find the new tables, since PostgreSQL looks their names up again.
    pub(crate) async fn switch(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Self {
            migrations: Migrations { schema, .. },
            second,
            tables,
        } = self;
        let moves = tables.iter().map(|table| {
            format!(
                "DROP TABLE IF EXISTS {schema}.{table};
                 ALTER TABLE {second}.{table} SET SCHEMA {schema};"
            )
        });
        // What is left of the schema would be something that nobody listed.
        let end = format!("DROP SCHEMA {second} RESTRICT");
        let script: Vec<_> = moves.chain([end]).collect();
        run(connection, script.join("\n")).await
    }
}

/// Runs statements that are made of our own names.
async fn run(connection: &mut PgConnection, script: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(script))
        .execute(connection)
        .await
        .map(drop)
}
