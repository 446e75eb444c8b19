//! A private PostgreSQL without anything in it, for as long as standard input stays open. Prints its
//! URL.

use private_services::{Binaries, DataDir, Durability, Postgres};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let binaries = Binaries::locate_or_install(|line| eprintln!("{line}")).await?;
    let data = DataDir::ephemeral().await?;
    let postgres = Postgres::start(&binaries, &data, Durability::Relaxed).await?;
    println!("{}", postgres.url("postgres"));
    let until_the_end = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(until_the_end).await??;
    postgres.stop().await?;
    data.close().await?;
    Ok(())
}
