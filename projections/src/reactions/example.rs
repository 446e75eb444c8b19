//! The worked example of docs/adding-a-reaction.md: a list of the vehicles that every workspace has to
//! welcome. It is compiled and run as a test, so that the text beside it stays true.

use runtime::amqp::Link;
use runtime::config::BatchLimit;
use runtime::{Context, clock};
use serde_json::json;
use shared_model::event::Fact;
use shared_model::topology::{self, Subscriber};
use shared_model::{CloudEvent, EventType};
use sqlx::{PgConnection, PgPool};

use super::{Reaction, run};
use crate::fixture::{self, eventually};

/// Writes down each vehicle that became known.
struct Welcome;

impl Reaction for Welcome {
    const NAME: &'static str = "welcome";
    const TRANSACTION: &'static str = "welcome_vehicles";
    // A reaction of its own has a variant, and so a queue, of its own.
    const SUBSCRIBER: Subscriber = Subscriber::Reactions;

    fn wants(&self, event: &CloudEvent) -> bool {
        event.kind == EventType::VehicleRegistered.name()
    }

    async fn react(
        &self,
        connection: &mut PgConnection,
        events: &[CloudEvent],
    ) -> Result<u64, sqlx::Error> {
        let mut made = 0;
        for event in events {
            // Data of a version that is not known here are for a newer reaction.
            let Ok(Some(Fact::VehicleRegistered(fact))) = event.fact() else {
                continue;
            };
            // The key makes the second time harmless. A service would use `sqlx::query!` and one
            // statement for all events.
            let done = sqlx::query(
                "INSERT INTO welcome (workspace, vehicle) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(event.workspace.as_str())
            .bind(fact.vehicle.as_str())
            .execute(&mut *connection)
            .await?;
            made += done.rows_affected();
        }
        Ok(made)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_writes_down_what_it_cares_about_once() {
    let database = fixture::database(&super::MIGRATIONS).await;
    let pool = PgPool::connect(database.url.unwrap().expose())
        .await
        .unwrap();
    let table =
        "CREATE TABLE welcome (workspace text, vehicle text, PRIMARY KEY (workspace, vehicle))";
    sqlx::query(table).execute(&pool).await.unwrap();
    let amqp = fixture::broker().await;
    let context = Context::new("welcome", "0");
    let link = Link::open(&context, &amqp, topology::events());
    let (worker, reader) = (context.clone(), pool.clone());
    context.spawn("welcome", async move {
        run(&worker, &link, &reader, BatchLimit::default(), &Welcome).await
    });
    let (relay, publisher) = super::service_tests::relay(&amqp);
    for (offset, kind, vehicle) in [
        (1, EventType::VehicleRegistered, "bus-1"),
        (1, EventType::VehicleRegistered, "bus-1"),
        (2, EventType::VehiclesSeen, "bus-9"),
        (3, EventType::VehicleRegistered, "bus-2"),
    ] {
        let data = json!({"vehicle": vehicle, "provider": "viriciti", "registered_at": clock::now(),
            "connection": "01890a5d-ac96-774b-bcce-b302099a8057"});
        let body = super::service_tests::event(offset, "demo", kind, data);
        super::service_tests::publish(&relay, &publisher, body).await;
    }
    let welcome = || async {
        sqlx::query_scalar::<_, String>("SELECT vehicle FROM welcome ORDER BY vehicle")
            .fetch_all(&pool)
            .await
            .unwrap()
    };
    eventually(welcome, |vehicles| *vehicles == ["bus-1", "bus-2"]).await;
    context.stop().await.unwrap();
    relay.stop().await.unwrap();
}
