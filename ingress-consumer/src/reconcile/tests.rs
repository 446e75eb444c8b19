//! The judgement, from made-up tables.

use proptest::prelude::*;

use super::*;

const MINUTE: TimeDelta = TimeDelta::minutes(1);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn connection(n: u128) -> ConnectionId {
    ConnectionId(Uuid::from_u128(n))
}

fn account(n: u128, sent: u64, seen: u64) -> Account {
    Account {
        connection: connection(n),
        workspace: "w".to_owned(),
        provider: "viriciti".to_owned(),
        kind: "stream".to_owned(),
        sent,
        seen,
        conflated: 0,
        dead: 0,
        given_up: 0,
        stray: 0,
        parked: 0,
    }
}

fn gap(
    n: u128,
    sent: u64,
    missing: impl IntoIterator<Item = std::ops::RangeInclusive<u64>>,
) -> Gap {
    Gap {
        connection: connection(n),
        session: Uuid::from_u128(n),
        partition: 0,
        sent,
        missing: missing.into_iter().collect(),
        source: None,
        last_at: Some(at(-3600)),
    }
}

fn source(sent_at: i64, (mark, mark_at): (u64, i64), due: u64) -> Source {
    Source {
        sent_at: at(sent_at),
        mark,
        mark_at: at(mark_at),
        due,
        instance: "p".to_owned(),
    }
}

fn ledger(accounts: Vec<Account>, gaps: Vec<Gap>) -> Ledger {
    Ledger {
        accounts,
        gaps,
        queued: Some(0),
        ..Ledger::default()
    }
}

fn judged(ledger: &Ledger) -> Report {
    reconcile(ledger, at(0), MINUTE)
}

#[test]
fn nothing_at_all_adds_up() {
    let report = judged(&ledger(Vec::new(), Vec::new()));
    assert_eq!(report.verdict, Verdict::Ok);
    let summary = "reconcile: ok: 0 connections, 0 shards, 0 frames, 0 events";
    assert_eq!(report.summary, summary);
}

#[test]
fn what_was_sent_a_moment_ago_is_late_and_what_was_sent_before_is_missing() {
    let mut one = gap(1, 100, [10..=12, 60..=60, 95..=100]);
    let judge = |gap: &Gap| {
        let report = judged(&ledger(vec![account(1, 100, 90)], vec![gap.clone()]));
        let found = &report.connections[0];
        (found.missing, found.late, found.gaps[0].missing.join(","))
    };
    one.source = Some(source(-61, (50, -90), 20));
    assert_eq!(judge(&one), (10, 0, "10-12,60,95-100".to_owned()));
    one.source = Some(source(-10, (97, -61), 20));
    assert_eq!(judge(&one), (7, 3, "10-12,60,95-97".to_owned()));
    one.source = Some(source(-10, (97, -59), 11));
    assert_eq!(judge(&one), (2, 8, "10-11".to_owned()));
    // Nobody says what was sent: only once nothing comes any more.
    one.source = None;
    assert_eq!(judge(&one).0, 10);
    one.last_at = Some(at(-59));
    assert_eq!(judge(&one), (0, 10, String::new()));
}

#[test]
fn while_anything_waits_somewhere_what_has_not_arrived_is_late() {
    let base = ledger(vec![account(1, 3, 2)], vec![gap(1, 3, [2..=2])]);
    assert_eq!(judged(&base).verdict, Verdict::Missing);
    for waiting in [
        Ledger {
            queued: Some(7),
            ..base.clone()
        },
        Ledger {
            queued: None,
            ..base.clone()
        },
        Ledger {
            holding: vec!["p".to_owned()],
            ..base
        },
    ] {
        let report = judged(&waiting);
        assert_eq!(report.verdict, Verdict::Late, "{report:?}");
        assert_eq!(report.connections[0].late, 1);
    }
}

#[test]
fn a_connection_adds_up_with_what_is_parked_conflated_dead_and_discarded() {
    let full = Account {
        conflated: 5,
        dead: 4,
        given_up: 3,
        stray: 2,
        parked: 6,
        ..account(1, 30, 16)
    };
    let report = judged(&ledger(vec![full], Vec::new()));
    let found = &report.connections[0];
    assert_eq!((found.seen, found.parked), (10, 8));
    assert_eq!(sum(found), 30);
    assert_eq!(report.verdict, Verdict::Ok);
}

#[test]
fn gaps_beyond_a_hundred_are_counted_and_missing_ones_told_first() {
    let late = (0..150).map(|n| Gap {
        session: Uuid::from_u128(n),
        last_at: Some(at(0)),
        ..gap(1, 2, [2..=2])
    });
    let missing = gap(1, 9, [4..=9]);
    let gaps = late.chain([missing]).collect();
    let report = judged(&ledger(vec![account(1, 309, 153)], gaps));
    let found = &report.connections[0];
    assert_eq!((found.gaps.len(), found.further_gaps), (100, 51));
    assert_eq!((found.late, found.missing), (150, 6));
    assert_eq!(found.gaps[0].missing, ["4-9"]);
}

fn shard() -> ShardAccount {
    ShardAccount {
        shard: 0,
        logged: 10,
        relayed: 10,
        blocked: 0,
        dead: 0,
        waiting_since: None,
        holes: RangeInclusiveSet::new(),
        subscribers: Vec::new(),
    }
}

#[test]
fn what_was_logged_since_is_left_out_and_what_is_ahead_stays_ahead() {
    let subscriber = |applied| SubscriberAccount {
        name: "snapshot".to_owned(),
        applied,
        waiting_since: Some(DateTime::UNIX_EPOCH),
    };
    let account = ShardAccount {
        relayed: 9,
        waiting_since: Some(DateTime::UNIX_EPOCH),
        subscribers: [6, 8, 10, 12].map(subscriber).to_vec(),
        ..shard()
    };
    let cut = account.clone().up_to(8);
    assert_eq!((cut.logged, cut.relayed, cut.waiting_since), (8, 8, None));
    let applied: Vec<_> = cut.subscribers.iter().map(|of| of.applied).collect();
    assert_eq!(applied, [6, 8, 8, 12]);
    let waits: Vec<_> = cut
        .subscribers
        .iter()
        .map(|of| of.waiting_since.is_some())
        .collect();
    assert_eq!(waits, [true, false, false, false]);
    assert_eq!(account.clone().up_to(99).logged, account.logged);
}

#[test]
fn a_shard_is_late_where_events_wait_and_short_where_they_are_gone() {
    let behind = SubscriberAccount {
        name: "snapshot-projection".to_owned(),
        applied: 7,
        waiting_since: Some(at(-5)),
    };
    let cases = [
        (shard(), Verdict::Ok, 0),
        (
            ShardAccount {
                relayed: 8,
                ..shard()
            },
            Verdict::Late,
            2,
        ),
        (
            ShardAccount {
                blocked: 3,
                ..shard()
            },
            Verdict::Late,
            3,
        ),
        (ShardAccount { dead: 1, ..shard() }, Verdict::Missing, 0),
        (
            ShardAccount {
                holes: [4..=5].into_iter().collect(),
                ..shard()
            },
            Verdict::Missing,
            0,
        ),
        (
            ShardAccount {
                subscribers: vec![behind],
                ..shard()
            },
            Verdict::Late,
            0,
        ),
    ];
    for (account, verdict, unpublished) in cases {
        let shards = vec![account.clone()];
        let report = judged(&Ledger {
            shards,
            queued: Some(0),
            ..Ledger::default()
        });
        assert_eq!(report.verdict, verdict, "{account:?}");
        assert_eq!(report.shards[0].unpublished(), unpublished, "{account:?}");
        let unapplied = if account.subscribers.is_empty() { 0 } else { 3 };
        assert_eq!(report.unapplied(), unapplied);
        assert_eq!(
            report.missing_events(),
            account.dead + report.shards[0].lost
        );
    }
}

fn sum(of: &ConnectionReport) -> u64 {
    of.seen + of.parked + of.conflated + of.dead + of.discarded + of.late + of.missing
}

proptest! {
    /// Whatever became of each number, the sums add up, and the verdict is that of the worst number.
    #[test]
    fn every_number_is_in_one_sum(
        fates in prop::collection::vec((0_u8..7, 0_u64..3), 0..60),
        marks in (0_i64..120, 0_i64..120, 0_i64..120),
        queued in 0_u64..2,
    ) {
        let mut accounts = Vec::new();
        let mut gaps = Vec::new();
        for of in 0..3 {
            let own: Vec<_> = fates.iter().filter(|(_, which)| *which == of).collect();
            let count = |fate: u8| own.iter().filter(|(found, _)| *found == fate).count() as u64;
            let sent = own.len() as u64;
            accounts.push(Account {
                conflated: count(2), dead: count(3), given_up: count(4), stray: count(5),
                parked: count(1),
                ..account(u128::from(of), sent, count(0) + count(1))
            });
            let missing: Vec<_> = (1..).zip(&own)
                .filter(|(_, (fate, _))| *fate == 6)
                .map(|(number, _)| number..=number)
                .collect();
            if !missing.is_empty() {
                let (sent_at, mark_at, due_at) = marks;
                let mut one = gap(u128::from(of), sent, missing);
                let ages = (-sent_at, -(sent_at + mark_at), -(sent_at + mark_at + due_at));
                one.source = Some(source(ages.0, (sent / 2, ages.1), sent / 3));
                gaps.push(one);
            }
        }
        let tables = Ledger { accounts, gaps, queued: Some(queued), ..Ledger::default() };
        let report = judged(&tables);
        for (found, account) in report.connections.iter().zip(&tables.accounts) {
            prop_assert_eq!(sum(found), account.sent);
            let worst = if found.missing > 0 { Verdict::Missing }
                else if found.late > 0 { Verdict::Late } else { Verdict::Ok };
            prop_assert_eq!(found.verdict, worst);
            prop_assert!(queued == 0 || found.missing == 0);
        }
        let worst = report.connections.iter().map(|found| found.verdict).max();
        prop_assert_eq!(Some(report.verdict), worst);
        prop_assert_eq!(report.summary.starts_with("reconcile: ok:"), report.verdict == Verdict::Ok);
        // Time only makes things worse, until something arrives.
        let later = reconcile(&tables, at(3600), MINUTE);
        prop_assert!(later.verdict >= report.verdict);
        let read: Report = serde_json::from_value(serde_json::to_value(&report).unwrap()).unwrap();
        prop_assert_eq!(read.summary, report.summary);
    }
}
