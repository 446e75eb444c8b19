//! Declares a topology at the broker. Declaring what exists with the same arguments changes nothing.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind as LapinKind};
use shared_model::topology::{Argument, ExchangeKind, Topology};

pub(super) async fn declare(channel: &Channel, topology: &Topology) -> Result<(), lapin::Error> {
    for exchange in &topology.exchanges {
        let kind = match exchange.kind {
            ExchangeKind::Direct => LapinKind::Direct,
            ExchangeKind::Topic => LapinKind::Topic,
        };
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .exchange_declare(exchange.name.into(), kind, options, FieldTable::default())
            .await?;
    }
    for queue in &topology.queues {
        let name = || queue.name.as_str().into();
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .queue_declare(name(), options, table(&queue.arguments))
            .await?;
        channel
            .queue_bind(
                name(),
                queue.exchange.into(),
                queue.routing_key.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
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
