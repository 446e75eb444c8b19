//! Declares a topology at the broker. Declaring what exists with the same arguments changes nothing.
//!
//! RabbitMQ 3.10 keeps part of what it knows of a new quorum queue in memory for up to 5 s. Killed in
//! that time, it comes back with a queue that never gets a leader again. Removing any quorum queue
//! writes all of that to disk at once, so after making new queues, a queue without a purpose is made
//! and removed.

use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind as LapinKind};
use shared_model::topology::{Argument, ExchangeKind, Topology};

use super::link::answer;

const GOODBYE: u16 = 200;

pub(super) async fn declare(
    connection: &Connection,
    topology: &Topology,
) -> Result<(), lapin::Error> {
    let are_known = are_known(connection, topology).await?;
    let channel = answer(connection.create_channel()).await?;
    declare_on(&channel, topology).await?;
    if !are_known {
        write_to_disk(&channel).await?;
    }
    answer(channel.close(GOODBYE, "declared".into())).await
}

/// Whether the broker has every queue already.
async fn are_known(connection: &Connection, topology: &Topology) -> Result<bool, lapin::Error> {
    let channel = answer(connection.create_channel()).await?;
    let look = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    for queue in &topology.queues {
        let name = queue.name.as_str().into();
        match answer(channel.queue_declare(name, look, FieldTable::default())).await {
            Ok(_) => {}
            // The broker closes the channel with its no.
            Err(error) if is_not_found(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    answer(channel.close(GOODBYE, "looked".into())).await?;
    Ok(true)
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error)
        if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

async fn write_to_disk(channel: &Channel) -> Result<(), lapin::Error> {
    let name = format!("headrace.made-and-removed.{}", crate::clock::new_id());
    let quorum = table(&[("x-queue-type", Argument::Text("quorum"))]);
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    answer(channel.queue_declare(name.as_str().into(), options, quorum)).await?;
    answer(channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default())).await?;
    Ok(())
}

async fn declare_on(channel: &Channel, topology: &Topology) -> Result<(), lapin::Error> {
    for exchange in &topology.exchanges {
        let kind = match exchange.kind {
            ExchangeKind::Direct => LapinKind::Direct,
            ExchangeKind::Topic => LapinKind::Topic,
        };
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let name = exchange.name.into();
        answer(channel.exchange_declare(name, kind, options, FieldTable::default())).await?;
    }
    for queue in &topology.queues {
        let name = || queue.name.as_str().into();
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        answer(channel.queue_declare(name(), options, table(&queue.arguments))).await?;
        let binding = channel.queue_bind(
            name(),
            queue.exchange.into(),
            queue.routing_key.as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        answer(binding).await?;
    }
    Ok(())
}

fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, argument) in arguments {
        let value = match argument {
            Argument::Text(text) => AMQPValue::LongString((*text).into()),
            Argument::Integer(number) => AMQPValue::LongLongInt(*number),
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert((*name).into(), value);
    }
    table
}
