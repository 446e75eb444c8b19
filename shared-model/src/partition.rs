//! The stable hash that spreads devices over ingress partitions and vehicles over log shards.

use xxhash_rust::xxh3::xxh3_64;

use crate::id::{ConnectionId, WorkspaceId};

/// The partition, in `0..partitions`, of what `device` sends over `connection`.
///
/// `device` is the provider's own id of the sender where a frame shows it cheaply, else empty: then
/// the whole connection shares a partition. The result depends on nothing but the arguments and is
/// the same in every build and on every platform (XXH3-64 of the parts, separated by NUL, which no
/// identifier contains, modulo `partitions`).
///
/// # Panics
/// If `partitions` is zero.
#[must_use]
pub fn partition(
    workspace: &WorkspaceId,
    connection: ConnectionId,
    device: &str,
    partitions: u32,
) -> u32 {
    assert!(partitions > 0, "there is no partition to choose from");
    let key = [
        workspace.as_str().as_bytes(),
        connection.0.as_bytes().as_slice(),
        device.as_bytes(),
    ]
    .join(&0);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a remainder of a u32 is a u32"
    )]
    let partition = (xxh3_64(&key) % u64::from(partitions)) as u32;
    partition
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(workspace: &str, connection: &str, device: &str, partitions: u32) -> u32 {
        partition(
            &WorkspaceId::new(workspace).unwrap(),
            connection.parse().unwrap(),
            device,
            partitions,
        )
    }

    const A: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    const B: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

    // A changed vector means that running systems would send a device to another partition.
    #[test]
    fn the_hash_is_pinned() {
        let found = [
            of("demo", A, "bus-1", 4),
            of("demo", A, "bus-2", 4),
            of("demo", A, "", 4),
            of("demo", B, "bus-1", 4),
            of("other", A, "bus-1", 4),
            of("demo", A, "bus-1", 1024),
            of("demo", A, "Bus №7", 1024),
        ];
        assert_eq!(found, [0, 0, 2, 2, 1, 932, 328]);
    }

    #[test]
    fn devices_spread_evenly() {
        let mut counts = [0_u32; 4];
        for n in 0..4000 {
            counts[of("demo", A, &format!("bus-{n}"), 4) as usize] += 1;
        }
        assert!(
            counts.iter().all(|&count| (900..1100).contains(&count)),
            "{counts:?}"
        );
    }
}
