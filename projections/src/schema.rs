//! In which schema a statement works.
//!
//! Statements are written, and checked when they are compiled, for the schema that is live. A rebuild
//! runs the same ones on a second set of tables, and what projections share runs in each one's schema.

use sqlx::postgres::{PgQueryResult, PgRow};
use sqlx::{AssertSqlSafe, Execute, PgConnection, Postgres, SqlSafeStr, SqlStr};

/// The schema that the shared statements, and the snapshots', are written for.
const WRITTEN: &str = "snapshot";

/// A schema with a set of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schema(pub(crate) &'static str);

impl Schema {
    /// `sql`, which names the tables of [`WRITTEN`], for this schema.
    pub(crate) fn translate(self, sql: &str) -> String {
        sql.replace(&format!("{WRITTEN}."), &format!("{}.", self.0))
    }

    fn here(self, sql: SqlStr) -> SqlStr {
        if self.0 == WRITTEN {
            sql
        } else {
            // The name is one of ours, never an input.
            AssertSqlSafe(self.translate(sql.as_str())).into_sql_str()
        }
    }

    /// Runs `query` in this schema.
    pub(crate) async fn execute<'q>(
        self,
        connection: &mut PgConnection,
        mut query: impl Execute<'q, Postgres>,
    ) -> Result<PgQueryResult, sqlx::Error> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let sql = self.here(query.sql());
        sqlx::query_with(sql, arguments.unwrap_or_default())
            .execute(connection)
            .await
    }

    /// Runs `query` in this schema and takes all rows.
    pub(crate) async fn fetch_all<'q>(
        self,
        connection: &mut PgConnection,
        mut query: impl Execute<'q, Postgres>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let sql = self.here(query.sql());
        sqlx::query_with(sql, arguments.unwrap_or_default())
            .fetch_all(connection)
            .await
    }
}
