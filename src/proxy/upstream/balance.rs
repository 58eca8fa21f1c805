//! Which server gets a request: pure choices over weights.
//!
//! A weight of 0 is a server that must not be chosen. Servers are counted from 0.

/// In turn, as often as the weights say, and as evenly as they can: three servers of the weights
/// 5, 1 and 1 are chosen as `a a b a c a a`. This is nginx's smooth weighted round robin: each server
/// gains its weight, and the one that has most pays for all.
#[derive(Debug)]
pub(super) struct RoundRobin {
    /// What each server has gained. The sum is 0 after each choice.
    credit: Vec<i64>,
}

impl RoundRobin {
    /// For so many servers.
    pub(super) fn new(servers: usize) -> Self {
        Self {
            credit: vec![0; servers],
        }
    }

    /// The next server; `None` when none may be chosen.
    pub(super) fn choose(&mut self, weight: impl Fn(usize) -> u32) -> Option<usize> {
        let mut total = 0_i64;
        let mut best: Option<(usize, i64)> = None;
        for (index, credit) in self.credit.iter_mut().enumerate() {
            let weight = i64::from(weight(index));
            if weight == 0 {
                // What it had gained would come all at once when it is back.
                *credit = 0;
                continue;
            }
            total += weight;
            *credit += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        if let Some(credit) = self.credit.get_mut(index) {
            *credit -= total;
        }
        Some(index)
    }
}

/// Of two different servers that `random` draws by weight, the one with fewer requests running for
/// its weight; of two alike, the one that was drawn first. Two choices are enough to keep the load
/// even, and, unlike the least loaded of all, not everybody chooses the same one at the same time
/// (Mitzenmacher, "The power of two choices in randomized load balancing").
pub(super) fn least(
    servers: usize,
    weight: impl Fn(usize) -> u32,
    running: impl Fn(usize) -> usize,
    random: [u64; 2],
) -> Option<usize> {
    let [first, second] = random;
    let first = draw(servers, &weight, first)?;
    let others = |index| if index == first { 0 } else { weight(index) };
    let Some(second) = draw(servers, others, second) else {
        return Some(first);
    };
    // running / weight, compared without dividing.
    let load = |one: usize, other: usize| {
        u128::try_from(running(one)).unwrap_or(u128::MAX) * u128::from(weight(other))
    };
    if load(second, first) < load(first, second) {
        Some(second)
    } else {
        Some(first)
    }
}

/// A server, as probable as its weight says.
fn draw(servers: usize, weight: impl Fn(usize) -> u32, random: u64) -> Option<usize> {
    let total: u64 = (0..servers).map(|index| u64::from(weight(index))).sum();
    let mut left = random.checked_rem(total)?;
    (0..servers).find(|index| {
        let weight = u64::from(weight(*index));
        let is_it = left < weight;
        left = left.saturating_sub(weight);
        is_it
    })
}

/// The same server for the same `key`, as often as the weights say over many keys. When a server
/// comes or goes, only the keys that it gets or had move (weighted rendezvous hashing: Schindelhauer
/// and Schomaker, "Weighted distributed hash tables"). `id` is what a server is known by; the order of
/// the servers plays no part.
pub(super) fn rendezvous(
    servers: usize,
    weight: impl Fn(usize) -> u32,
    id: impl Fn(usize) -> u64,
    key: u64,
) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for index in 0..servers {
        let weight = weight(index);
        if weight == 0 {
            continue;
        }
        let distance = -unit(mix(key ^ mix(id(index)))).ln() / f64::from(weight);
        if best.is_none_or(|(_, least)| distance < least) {
            best = Some((index, distance));
        }
    }
    best.map(|(index, _)| index)
}

/// A number over 0 and under 1.
fn unit(hash: u64) -> f64 {
    let high = u32::try_from(hash >> 32).unwrap_or(u32::MAX);
    (f64::from(high) + 0.5) / (f64::from(u32::MAX) + 1.0)
}

/// Spreads bytes over 64 bits, the same on every machine and in every version: what a server is
/// chosen by must not change with the program. FNV-1a, and [`mix`] for its weak high bits.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(folded)
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood): every bit depends on every bit.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[u32], count: usize) -> Vec<usize> {
        let mut turn = RoundRobin::new(weights.len());
        (0..count)
            .filter_map(|_| turn.choose(|index| weights[index]))
            .collect()
    }

    #[test]
    fn turns_of_unequal_servers_are_spread_out() {
        assert_eq!(turns(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(turns(&[0, 1], 2), [1, 1]);
        assert_eq!(turns(&[0, 0], 1), [0_usize; 0]);
    }

    #[test]
    fn a_server_that_comes_back_does_not_get_what_it_has_missed() {
        let mut turn = RoundRobin::new(2);
        for _ in 0..100 {
            assert_eq!(turn.choose(|index| [1, 0][index]), Some(0));
        }
        let next: Vec<_> = (0..4).filter_map(|_| turn.choose(|_| 1)).collect();
        assert_eq!(next.iter().filter(|index| **index == 1).count(), 2);
    }

    proptest! {
        #[test]
        fn every_server_has_its_exact_share_of_a_round(weights in prop::collection::vec(0_u32..20, 1..8)) {
            let total: u32 = weights.iter().sum();
            let round = usize::try_from(total).unwrap();
            for (index, weight) in weights.iter().enumerate() {
                for rounds in 1..3 {
                    let chosen = turns(&weights, round * rounds);
                    let count = chosen.iter().filter(|chosen| **chosen == index).count();
                    prop_assert_eq!(count, usize::try_from(*weight).unwrap() * rounds);
                }
            }
        }

        #[test]
        fn the_busier_of_two_is_never_chosen(
            weights in prop::array::uniform2(1_u32..10),
            running in prop::array::uniform2(0_usize..100),
            random: [u64; 2],
        ) {
            let chosen = least(2, |i| weights[i], |i| running[i], random).unwrap();
            let load = |i: usize| f64::from(u32::try_from(running[i]).unwrap()) / f64::from(weights[i]);
            prop_assert!(load(chosen) <= load(1 - chosen));
        }

        #[test]
        fn a_server_without_weight_is_never_chosen(
            weights in prop::collection::vec(prop_oneof![Just(0_u32), 1_u32..5], 1..6),
            random: [u64; 2],
            key: u64,
        ) {
            let ok = |chosen: Option<usize>| match chosen {
                Some(index) => weights[index] > 0,
                None => weights.iter().all(|weight| *weight == 0),
            };
            prop_assert!(ok(least(weights.len(), |i| weights[i], |_| 0, random)));
            prop_assert!(ok(rendezvous(weights.len(), |i| weights[i], ids, key)));
            prop_assert!(ok(RoundRobin::new(weights.len()).choose(|i| weights[i])));
        }

        #[test]
        fn when_a_server_goes_only_its_keys_move(servers in 2_usize..8, gone in 0_usize..8, key: u64) {
            let gone = gone % servers;
            let before = rendezvous(servers, |_| 3, ids, key).unwrap();
            let after = rendezvous(servers, |i| if i == gone { 0 } else { 3 }, ids, key).unwrap();
            prop_assert!(before == gone || before == after);
        }

        #[test]
        fn a_weight_that_grows_takes_keys_and_gives_none(key: u64) {
            let before = rendezvous(4, |_| 2, ids, key).unwrap();
            let after = rendezvous(4, |i| if i == 1 { 3 } else { 2 }, ids, key).unwrap();
            prop_assert!(after == before || after == 1);
        }
    }

    fn ids(index: usize) -> u64 {
        hash(format!("http://10.0.0.{index}:9000").as_bytes())
    }

    fn shares(count: u32, choose: impl Fn(u64) -> usize) -> Vec<f64> {
        let mut shares = vec![0.0; 3];
        for key in 0..count {
            shares[choose(hash(&key.to_be_bytes()))] += 1.0 / f64::from(count);
        }
        shares
    }

    #[test]
    fn keys_and_idle_servers_are_shared_by_weight() {
        let weights = [1, 2, 5];
        let by_key = shares(20_000, |key| {
            rendezvous(3, |i| weights[i], ids, key).unwrap()
        });
        let idle = shares(20_000, |random| {
            least(3, |i| weights[i], |_| 0, [random, mix(random ^ 1)]).unwrap()
        });
        for (index, weight) in weights.iter().enumerate() {
            let expected = f64::from(*weight) / 8.0;
            assert!((by_key[index] - expected).abs() < 0.02, "{by_key:?}");
            assert!((idle[index] - expected).abs() < 0.02, "{idle:?}");
        }
    }

    #[test]
    fn all_copies_of_all_versions_choose_alike() {
        let recorded: Vec<_> = (0..12_u32)
            .map(|key| rendezvous(3, |_| 1, ids, hash(&key.to_be_bytes())).unwrap())
            .collect();
        assert_eq!(recorded, [2, 1, 2, 0, 2, 0, 2, 2, 2, 0, 0, 2]);
    }
}
