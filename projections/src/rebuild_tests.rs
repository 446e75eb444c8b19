//! Rebuilds, while the live tables are in use and when they are gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use runtime::Context;
use runtime::access::AccessConfig;
use runtime::config::HttpConfig;
use runtime::db;
use serde_json::Value;
use sqlx::{Connection, PgPool};

use crate::fixture::{self, eventually};
use crate::rebuild::{self, RebuildArguments, Rebuilt};
use crate::running::{KIND, Running, applied, bus, pool};
use crate::service_tests::{Relay, changed, get};
use crate::snapshot::{self, SnapshotProjection};
use crate::{checkpoint, health};

const LIST: &str = "/v1/workspaces/demo/vehicles";

impl Running {
    /// Rebuilds; returns what was said, and how it ended.
    async fn rebuild(&self, arguments: RebuildArguments) -> (String, anyhow::Result<()>) {
        let context = Context::new("snapshot-projection", "rebuild");
        let said = Mutex::new(String::new());
        let say = |line: &str| {
            let mut said = said.lock().unwrap();
            said.push_str(line);
            said.push('\n');
        };
        let done = snapshot::rebuild(&context, self.config.clone(), arguments, &say).await;
        context.stop().await.unwrap();
        (said.into_inner().unwrap(), done)
    }

    /// Every row, as text.
    async fn rows(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT v::text FROM snapshot.vehicle AS v ORDER BY workspace, vehicle")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    async fn ddl(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn applied_is(&self, offsets: &str) {
        eventually(|| self.applied(), |applied| applied == offsets).await;
    }
}

/// What the catalogue says of the tables of `schema`, without its name.
async fn description(pool: &PgPool, schema: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT replace(line, $1 || '.', '') FROM (
             SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, udt_name,
                 collation_name, is_nullable, column_default)
             FROM information_schema.columns WHERE table_schema = $1
             UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = $1
             UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
             FROM pg_constraint WHERE connamespace = to_regnamespace($1)
             UNION ALL SELECT concat_ws(' ', relname, relkind, reloptions)
             FROM pg_class WHERE relnamespace = to_regnamespace($1)
         ) AS described (line)
         WHERE line NOT LIKE '%schema_migration%'
         ORDER BY 1",
    )
    .bind(schema)
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn the_second_set_is_what_the_migrations_make() {
    let pool = fixture::pool(&snapshot::MIGRATIONS).await;
    let mut connection = pool.acquire().await.unwrap();
    let sets = SnapshotProjection::SETS;
    // Twice: one that was left behind is in nobody's way.
    for _ in 0..2 {
        sets.make_second(&mut connection).await.unwrap();
    }
    let live = description(&pool, "snapshot").await;
    assert!(live.len() > 10, "{live:#?}");
    assert_eq!(description(&pool, sets.second).await, live);
    sets.switch(&mut connection).await.unwrap();
    assert_eq!(description(&pool, "snapshot").await, live);
    assert!(description(&pool, sets.second).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_repairs_the_tables_while_they_are_in_use() {
    let running = Running::start(31).await;
    for number in 1..=40 {
        running.send(KIND, bus(number)).await;
    }
    running.applied_is("{[1,41)}").await;
    let truth = running.rows().await;
    running
        .ddl(
            "UPDATE snapshot.vehicle SET signals = '{}' WHERE vehicle = 'bus-1';
             UPDATE snapshot.vehicle SET version = 0, signals = '{}' WHERE vehicle = 'bus-2';
             DELETE FROM snapshot.vehicle WHERE vehicle = 'bus-3'",
        )
        .await;

    // Read on as fast as the answers come: each must be whole.
    let (done, answers) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let reading = tokio::spawn({
        let (done, answers, http) = (Arc::clone(&done), Arc::clone(&answers), running.http);
        async move {
            while !done.load(Ordering::Relaxed) {
                let (status, page) = get(http, &format!("{LIST}?limit=1000")).await;
                assert_eq!(status, 200, "{page}");
                let count = page["items"].as_array().unwrap().len();
                assert!(count >= 39, "{count} vehicles");
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // Write on as well.
    let (said, rebuilt) = tokio::join!(running.rebuild(RebuildArguments::default()), async {
        for version in 2..=60 {
            running.send(KIND, changed("bus-40", version, "%")).await;
        }
    })
    .0;
    rebuilt.unwrap();
    let meanwhile = answers.load(Ordering::Relaxed);
    assert!(meanwhile > 0, "nobody has read meanwhile");
    for line in [
        "only in what was built (repaired)              1",
        "as new, with other values (repaired)           1",
        "missing in what was built                      0",
        "switched",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // One that is written meanwhile may be newer too.
    assert!(
        !said.contains("newer in what was built (repaired)             0"),
        "{said}"
    );
    running.applied_is("{[1,100)}").await;
    let read_on = || async { answers.load(Ordering::Relaxed) };
    eventually(read_on, |answers| *answers > meanwhile + 10).await;
    done.store(true, Ordering::Relaxed);
    reading.await.unwrap();
    let rows = running.rows().await;
    assert_eq!(rows[..], {
        let mut expected = truth.clone();
        let at = expected
            .iter()
            .position(|row| row.contains("bus-40"))
            .unwrap();
        expected[at].clone_from(rows.iter().find(|row| row.contains("bus-40")).unwrap());
        expected
    });
    let (_, last) = get(running.http, &format!("{LIST}/bus-40/snapshot")).await;
    assert_eq!(last["version"], 60);

    // What was prepared before the switch goes on, and a second switch is as good as the first.
    let (said, rebuilt) = running.rebuild(RebuildArguments::default()).await;
    rebuilt.unwrap();
    assert!(
        said.contains("equal                                         40"),
        "{said}"
    );
    running.send(KIND, bus(41)).await;
    running.applied_is("{[1,101)}").await;
    assert_eq!(running.rows().await.len(), 41);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_gone_come_back_and_the_worker_with_them() {
    let running = Running::start(32).await;
    for number in 1..=20 {
        running.send(KIND, bus(number)).await;
    }
    running.applied_is("{[1,21)}").await;
    let truth = running.rows().await;

    running
        .ddl("DROP TABLE snapshot.vehicle, snapshot.checkpoint")
        .await;
    // One that arrives meanwhile, and one that never does.
    running.send(KIND, bus(91)).await;
    running.append(KIND, bus(92));
    let is_down = |of: &(u16, Value)| of.1["checks"]["tables"]["status"] == "down";
    eventually(|| get(running.http, "/readyz"), is_down).await;
    let (said, rebuilt) = running.rebuild(RebuildArguments::default()).await;
    rebuilt.unwrap();
    assert!(said.contains("no live tables"), "{said}");
    eventually(|| get(running.http, "/readyz"), |of| of.0 == 200).await;
    running.applied_is("{[1,23)}").await;
    assert_eq!(running.rows().await[..20], truth);
    assert_eq!(running.rows().await.len(), 22);

    // The whole schema: the migrations bring back the tables, and the rebuild their rows.
    let all = running.rows().await;
    running.ddl("DROP SCHEMA snapshot CASCADE").await;
    running.send(KIND, bus(93)).await;
    eventually(|| get(running.http, "/readyz"), is_down).await;
    let (_, refused) = running.rebuild(RebuildArguments::default()).await;
    assert!(refused.unwrap_err().to_string().contains("migrate"));
    db::migrate(&running.config.database, &snapshot::MIGRATIONS)
        .await
        .unwrap();
    let (_, rebuilt) = running.rebuild(RebuildArguments::default()).await;
    rebuilt.unwrap();
    running.applied_is("{[1,24)}").await;
    assert_eq!(running.rows().await[..22], all);
    assert!(!running.context.stopping().is_cancelled());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_lost_is_not_switched_away_unasked() {
    let running = Running::start(33).await;
    for number in 1..=3 {
        running.send(KIND, bus(number)).await;
    }
    running.applied_is("{[1,4)}").await;
    let truth = running.rows().await;
    running
        .ddl(
            "INSERT INTO snapshot.vehicle SELECT workspace, 'ghost', version, signals, revision, times
             FROM snapshot.vehicle WHERE vehicle = 'bus-1';
             UPDATE snapshot.vehicle SET revision = revision + 7 WHERE vehicle = 'bus-2'",
        )
        .await;
    let wrong = running.rows().await;

    let compare_only = RebuildArguments {
        compare_only: true,
        force: false,
    };
    for arguments in [RebuildArguments::default(), compare_only] {
        let (said, refused) = running.rebuild(arguments).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("--force"), "{refused}");
        for line in [
            "older in what was built                        1",
            "missing in what was built                      1",
            "such as bus-2 of demo",
            "such as ghost of demo",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert_eq!(running.rows().await, wrong);
    }
    let force = RebuildArguments {
        force: true,
        compare_only: false,
    };
    running.rebuild(force).await.1.unwrap();
    assert_eq!(running.rows().await, truth);

    let (said, compared) = running.rebuild(compare_only).await;
    compared.unwrap();
    assert!(said.contains("stay, as asked"), "{said}");
    let anew = running.relay.core.log().anew["snapshot"].clone();
    assert_eq!(anew.applied[&33], 3);
    let mut connection = running.pool.acquire().await.unwrap();
    let second = crate::schema::Schema(SnapshotProjection::SETS.second);
    let tables = ["vehicle"];
    let missing = checkpoint::missing(&mut connection, second, &tables).await;
    assert_eq!(missing.unwrap().len(), 1, "the second set is dropped");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rebuilds_keep_out_of_each_others_way() {
    let running = Running::start(34).await;
    running.send(KIND, bus(1)).await;
    // The other holds its lock for as long as its session lives.
    let mut other = running.pool.acquire().await.unwrap().detach();
    let sets = SnapshotProjection::SETS;
    assert!(rebuild::lock(&mut other, &sets).await.unwrap());
    let (_, refused) = running.rebuild(RebuildArguments::default()).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "another rebuild of snapshot is under way"
    );
    other.close().await.unwrap();
    let (_, rebuilt) = running.rebuild(RebuildArguments::default()).await;
    rebuilt.unwrap();
    running.applied_is("{[1,2)}").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_filled_from_the_state_beside_its_worker() {
    let amqp = fixture::broker().await;
    let relay = Relay::new(&amqp).await;
    let config = health::HealthConfig {
        amqp,
        database: fixture::database(&health::MIGRATIONS).await,
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: relay.core.config(),
        ..health::HealthConfig::default()
    };
    for number in 1..=3 {
        relay.core.append(0, KIND, bus(number));
    }
    // The log holds nothing of them any more, and is another than before.
    relay.core.log().is_restored = true;
    relay.core.log().first.insert(0, 4);
    let pool = pool(&config.database).await;
    let context = Context::new("health-projection", "0");
    let http = health::start(context.clone(), config.clone())
        .await
        .unwrap()
        .http;
    eventually(|| get(http, "/readyz"), |of| of.0 == 200).await;
    let command = Context::new("health-projection", "refill");
    health::refill(&command, config, &|_| {}).await.unwrap();
    command.stop().await.unwrap();
    assert_eq!(applied(&pool, "health", 0).await, "{[1,4)}");
    assert_eq!(relay.core.log().anew["health"].applied[&0], 3);
    let (_, summary) = get(http, "/v1/workspaces/demo/health").await;
    assert_eq!(summary["vehicles"], 3);
    context.stop().await.unwrap();
    relay.stop().await;
}
