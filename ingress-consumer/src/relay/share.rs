//! Which shards a relay takes and which it gives up. Pure.
//!
//! Every relay's share is the number of shards over the number of relays, and what does not divide goes
//! to some of them one each. A relay above its share gives up what is above; one below takes what
//! nobody has. All see the same under one lock, so that together they come to rest.

use std::collections::BTreeMap;

use uuid::Uuid;

/// A shard and who has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardView {
    /// The shard.
    pub shard: u32,
    /// Who has it; none if it can be taken.
    pub owner: Option<Uuid>,
}

/// What a relay does about its shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// Take these, which nobody has.
    pub take: Vec<u32>,
    /// Give these up.
    pub give: Vec<u32>,
}

/// What `me` does, one of the `relays` that run.
#[must_use]
pub fn steps(me: Uuid, relays: &[Uuid], shards: &[ShardView]) -> Steps {
    let mut counts: BTreeMap<Uuid, usize> = relays.iter().map(|relay| (*relay, 0)).collect();
    counts.entry(me).or_default();
    for owner in shards.iter().filter_map(|shard| shard.owner) {
        // One that does not say that it runs but has a lease still counts for nobody else.
        if let Some(count) = counts.get_mut(&owner) {
            *count += 1;
        }
    }
    let (least, over) = (shards.len() / counts.len(), shards.len() % counts.len());
    // Those that may keep, or take, one more: first whoever has it already.
    let above = |(_, count): &(&Uuid, &usize)| **count > least;
    let holders: Vec<_> = counts
        .iter()
        .filter(above)
        .map(|(relay, _)| *relay)
        .collect();
    let mine = counts[&me];
    let may_have_more = match holders.iter().position(|relay| *relay == me) {
        Some(place) => place < over,
        None => holders.len() < over,
    };
    let share = least + usize::from(may_have_more);
    let of = |owner: Option<Uuid>| {
        let of = shards.iter().filter(move |shard| shard.owner == owner);
        of.map(|shard| shard.shard)
    };
    Steps {
        take: of(None).take(share.saturating_sub(mine)).collect(),
        give: of(Some(me)).skip(share).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relays(count: usize) -> Vec<Uuid> {
        (1..=count as u128).map(Uuid::from_u128).collect()
    }

    fn free(count: u32) -> Vec<ShardView> {
        let view = |shard| ShardView { shard, owner: None };
        (0..count).map(view).collect()
    }

    /// Lets the relays look one after the other, as under the lock; what one gives up is free for the
    /// next. Returns how many shards changed hands.
    fn round(relays: &[Uuid], shards: &mut [ShardView]) -> usize {
        let mut changes = 0;
        for me in relays {
            let steps = steps(*me, relays, shards);
            for shard in &mut *shards {
                if steps.take.contains(&shard.shard) {
                    assert_eq!(shard.owner, None);
                    shard.owner = Some(*me);
                    changes += 1;
                } else if steps.give.contains(&shard.shard) {
                    assert_eq!(shard.owner, Some(*me));
                    shard.owner = None;
                    changes += 1;
                }
            }
        }
        changes
    }

    fn settle(relays: &[Uuid], shards: &mut [ShardView]) {
        for _ in 0..4 {
            if round(relays, shards) == 0 {
                return;
            }
        }
        panic!("{relays:?} do not come to rest: {shards:?}");
    }

    fn counts(relays: &[Uuid], shards: &[ShardView]) -> Vec<usize> {
        let of = |relay: &Uuid| shards.iter().filter(|s| s.owner == Some(*relay)).count();
        relays.iter().map(of).collect()
    }

    #[test]
    fn one_takes_all_and_a_second_gets_its_half() {
        let (both, mut shards) = (relays(2), free(4));
        settle(&both[..1], &mut shards);
        assert_eq!(counts(&both, &shards), [4, 0]);
        assert_eq!(steps(both[0], &both, &shards).give, [2, 3]);
        settle(&both, &mut shards);
        assert_eq!(counts(&both, &shards), [2, 2]);
    }

    #[test]
    fn a_relay_without_a_shard_of_its_own_stands_by() {
        let (three, mut shards) = (relays(3), free(2));
        settle(&three, &mut shards);
        assert_eq!(counts(&three, &shards), [1, 1, 0]);
        // The first dies; nothing else moves.
        shards[0].owner = None;
        let second = shards[1].owner;
        settle(&three[1..], &mut shards);
        assert_eq!(counts(&three, &shards), [0, 1, 1]);
        assert_eq!(shards[1].owner, second);
    }

    #[test]
    fn a_lease_of_a_relay_that_does_not_say_that_it_runs_is_left_alone() {
        let (both, mut shards) = (relays(2), free(3));
        shards[1].owner = Some(both[1]);
        let steps = steps(both[0], &both[..1], &shards);
        assert_eq!((steps.take, steps.give), (vec![0, 2], vec![]));
    }

    proptest! {
        #[test]
        fn relays_that_come_and_go_end_up_with_even_shares(
            shards in 0_u32..20,
            relays_then in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            before in 1_usize..7,
            now in 1_usize..7,
        ) {
            let mut shards = free(shards);
            let all = relays(before.max(now));
            // However they were spread before.
            for (shard, owner) in shards.iter_mut().zip(relays_then) {
                shard.owner = Some(all[..before][owner.index(before)]);
            }
            let alive = &all[..now];
            for shard in &mut shards {
                shard.owner = shard.owner.filter(|owner| alive.contains(owner));
            }
            settle(alive, &mut shards);
            let counts = counts(alive, &shards);
            prop_assert_eq!(counts.iter().sum::<usize>(), shards.len());
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", counts);
            prop_assert_eq!(round(alive, &mut shards), 0);
        }

        #[test]
        fn what_is_even_already_does_not_move(shards in 0_u32..20, count in 1_usize..7) {
            let (alive, mut shards) = (relays(count), free(shards));
            let owners: Vec<_> = alive.iter().cycle().take(shards.len()).collect();
            for (shard, owner) in shards.iter_mut().zip(owners) {
                shard.owner = Some(*owner);
            }
            prop_assert_eq!(round(&alive, &mut shards), 0);
        }
    }
}
