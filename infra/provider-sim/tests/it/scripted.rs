//! The scripted provider.

use crate::client::{Client, End, KEY, eventually, refused, soon};
use provider_sim::{Closing, ScriptedConfig, ScriptedProvider, StatusCode};
use std::time::Duration;
use tokio::time::timeout;

const SUBSCRIPTION: &str = r#"{"vehicles":{"bus-1":["soc"]}}"#;

fn start() -> ScriptedProvider {
    ScriptedProvider::start(ScriptedConfig::default()).unwrap()
}

#[tokio::test]
async fn it_sends_exactly_what_it_is_handed() {
    let provider = start();
    let mut one = Client::subscribed(&provider.live_url(), SUBSCRIPTION).await;
    let mut two = Client::subscribed(&provider.live_url(), SUBSCRIPTION).await;
    let mut unsubscribed = Client::connect(&provider.live_url()).await;
    soon("two subscriptions", provider.subscribed(2)).await;

    let frames: Vec<String> = (0..3000).map(|number| format!("frame {number}")).collect();
    let send = provider.send_all(frames.clone());
    let receive = async {
        for frame in &frames {
            assert_eq!(one.text().await, *frame);
            assert_eq!(two.text().await, *frame);
        }
    };
    let (reached, ()) = soon("the frames", async { tokio::join!(send, receive) }).await;
    assert_eq!(reached, 2);
    assert_eq!(provider.frames_sent(), 6000);
    assert_eq!(provider.send_text("not even json").await, 2);
    assert_eq!(one.text().await, "not even json");

    let second = provider.subscriptions()[1].connection;
    assert_eq!(
        provider.send_to(second, vec!["for you".to_owned()]).await,
        1
    );
    two.text().await;
    assert_eq!(two.text().await, "for you");
    assert!(one.is_silent_for(Duration::from_millis(50)).await);
    assert!(unsubscribed.is_silent_for(Duration::from_millis(50)).await);
    provider.stop().await;
}

#[tokio::test]
async fn it_remembers_handshakes_and_subscriptions() {
    let provider = start();
    let live = provider.live_url();
    assert_eq!(refused(&format!("{live}?apiKey=wrong"), None).await, 401);
    let mut client = Client::subscribed(&live, SUBSCRIPTION).await;
    client.send(r#"{"vehicles":{}}"#).await;
    let subscriptions = soon("both", provider.subscriptions_received(2)).await;
    let texts: Vec<_> = subscriptions.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(texts, [SUBSCRIPTION, r#"{"vehicles":{}}"#]);
    assert!(subscriptions.iter().all(|s| s.connection == 1));

    let handshakes = provider.handshakes();
    assert_eq!(handshakes[0].status, StatusCode::UNAUTHORIZED);
    assert_eq!(handshakes[0].target, "/api/v2/live?apiKey=wrong");
    assert_eq!(handshakes[1].status, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(handshakes[1].headers["x-api-key"], KEY);
    provider.stop().await;
}

#[tokio::test]
async fn it_refuses_as_told_until_it_accepts_again() {
    let provider = start();
    for status in [401, 429, 503] {
        provider.refuse_with(StatusCode::from_u16(status).unwrap());
        assert_eq!(refused(&provider.live_url(), Some(KEY)).await, status);
    }
    provider.accept();
    Client::subscribed(&provider.live_url(), SUBSCRIPTION).await;
    provider.stop().await;
}

#[tokio::test]
async fn it_closes_with_a_frame_or_without_a_word() {
    let provider = start();
    let closings = [
        (
            Closing::Frame {
                code: 4321,
                reason: "maintenance".to_owned(),
            },
            End::Closed {
                code: 4321,
                reason: "maintenance".to_owned(),
            },
        ),
        (Closing::Abrupt, End::Cut),
    ];
    for (closing, end) in closings {
        let mut client = Client::subscribed(&provider.live_url(), SUBSCRIPTION).await;
        assert_eq!(provider.send_text("written before the end").await, 1);
        provider.close_all(&closing);
        assert_eq!(provider.connections(), 0);
        assert_eq!(client.text().await, "written before the end");
        assert_eq!(client.end().await, end);
        assert_eq!(provider.send_text("to nobody").await, 0);
    }
    // A closed socket does not count as subscribed: this waits for the new one.
    let waiting = timeout(Duration::from_millis(50), provider.subscribed(1));
    assert!(waiting.await.is_err());
    let _client = Client::subscribed(&provider.live_url(), SUBSCRIPTION).await;
    soon("the new subscription", provider.subscribed(1)).await;
    provider.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten() {
    let provider = start();
    let client = Client::subscribed(&provider.live_url(), SUBSCRIPTION).await;
    assert_eq!(provider.connections(), 1);
    drop(client);
    eventually("no connection", || {
        (provider.connections() == 0).then_some(())
    })
    .await;
    provider.stop().await;
}

#[tokio::test]
async fn it_does_not_read_while_told_so() {
    let provider = start();
    let mut client = Client::connect(&provider.live_url()).await;
    client.send("show query").await;
    client.text().await;
    provider.stop_reading();
    client.send(SUBSCRIPTION).await;
    assert!(client.is_silent_for(Duration::from_millis(100)).await);
    assert!(provider.subscriptions().is_empty());
    provider.resume_reading();
    assert_eq!(client.text().await, SUBSCRIPTION);
    provider.stop().await;
}
