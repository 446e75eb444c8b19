//! Loopback ports that a server keeps from one start to the next, and while it is down.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::files::write_private;

/// Below the range that the kernel hands to outgoing connections, so that none of those takes a server's port while the
/// server is down.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// `N` free ports: those remembered in `file` where they are free, others where not. Remembers the answer.
pub(crate) fn settle<const N: usize>(
    file: &Path,
    account: Option<&Account>,
) -> Result<[u16; N], Error> {
    let remembered = fs::read_to_string(file).unwrap_or_default();
    let mut wanted = remembered
        .split_whitespace()
        .map(|word| word.parse::<u16>().ok());
    let mut ports = [0; N];
    // Kept open until all are chosen, so that none is chosen twice.
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = wanted
            .next()
            .flatten()
            .and_then(bind)
            .map_or_else(bind_any, Ok)
            .map_err(io_error("find a free port for", file))?;
        *port = listener
            .local_addr()
            .map_err(io_error("find a free port for", file))?
            .port();
        held.push(listener);
    }
    let text = ports.map(|port| port.to_string()).join(" ");
    write_private(file, &text, 0o644, account)?;
    Ok(ports)
}

/// An address of this machine that is free, for a server that may be started on it again later: the kernel
/// does not give its port away while the server is down.
pub fn free_address() -> std::io::Result<SocketAddr> {
    bind_any()?.local_addr()
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

fn bind_any() -> std::io::Result<TcpListener> {
    let ports = RANGE.len();
    let random = || RANGE.start + u16::try_from(rand::random::<u64>() % ports as u64).unwrap_or(0);
    (0..ports)
        .find_map(|_| bind(random()))
        .map_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_address_is_out_of_the_range_of_outgoing_connections() {
        let address = free_address().unwrap();
        assert!(RANGE.contains(&address.port()), "{address}");
        drop(TcpListener::bind(address).unwrap());
    }

    #[test]
    fn keeps_free_ports_and_replaces_taken_ones() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ports");
        let first: [u16; 3] = settle(&file, None).unwrap();
        assert_eq!(settle::<3>(&file, None).unwrap(), first);

        let _taken = bind(first[1]).unwrap();
        let second: [u16; 3] = settle(&file, None).unwrap();
        assert_eq!((second[0], second[2]), (first[0], first[2]));
        assert_ne!(second[1], first[1]);
    }
}
