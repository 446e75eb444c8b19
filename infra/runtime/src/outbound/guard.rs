//! Which addresses may be called where somebody else chooses the URL.
//!
//! A URL that a user gives must not become a way into the network that the service runs in (server-side
//! request forgery). So what counts is the address that is connected to: names are resolved here, and
//! only allowed addresses are handed on, which leaves nothing to a name that resolves differently the
//! next time. A client does not resolve a host that is an address already, so [`AddressRules::check`]
//! looks at the URL, parsed, before it is called: `http://0x7f.1` is `127.0.0.1` by then.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Networks of IPv4 that are not for the public, by IANA's registry of special-purpose addresses.
const SPECIAL_V4: [([u8; 4], u8); 16] = [
    ([0, 0, 0, 0], 8),       // this network
    ([10, 0, 0, 0], 8),      // private
    ([100, 64, 0, 0], 10),   // carrier-grade NAT
    ([127, 0, 0, 0], 8),     // loopback
    ([169, 254, 0, 0], 16),  // link-local, cloud metadata among them
    ([172, 16, 0, 0], 12),   // private
    ([192, 0, 0, 0], 24),    // protocol assignments
    ([192, 0, 2, 0], 24),    // documentation
    ([192, 31, 196, 0], 24), // AS112
    ([192, 52, 193, 0], 24), // automatic multicast tunnelling
    ([192, 88, 99, 0], 24),  // 6to4 relays
    ([192, 168, 0, 0], 16),  // private
    ([198, 18, 0, 0], 15),   // benchmarks
    ([198, 51, 100, 0], 24), // documentation
    ([203, 0, 113, 0], 24),  // documentation
    ([224, 0, 0, 0], 3),     // multicast, reserved and broadcast
];

/// Networks within global unicast IPv6 (`2000::/3`) that are not for the public, or that carry an IPv4
/// address to which a gateway on the way may forward.
const SPECIAL_V6: [([u16; 3], u8); 5] = [
    ([0x2001, 0, 0], 23),         // protocol assignments, Teredo among them
    ([0x2001, 0xdb8, 0], 32),     // documentation
    ([0x2002, 0, 0], 16),         // 6to4
    ([0x2620, 0x4f, 0x8000], 48), // AS112
    ([0x3fff, 0, 0], 20),         // documentation
];

/// Whether `address` is one of the public internet's.
///
/// Of IPv6 only global unicast is (`2000::/3`), less what is set aside in it. So loopback, link-local,
/// unique local, multicast, IPv4-mapped (`::ffff:0:0/96`) and NAT64 (`64:ff9b::/96`) addresses are not.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4
            .iter()
            .any(|(network, length)| within_v4(address, Ipv4Addr::from(*network), *length)),
        IpAddr::V6(address) => {
            address.segments()[0] & 0xe000 == 0x2000
                && !SPECIAL_V6.iter().any(|([a, b, c], length)| {
                    let network = Ipv6Addr::new(*a, *b, *c, 0, 0, 0, 0, 0);
                    within_v6(address, network, *length)
                })
        }
    }
}

fn within_v4(address: Ipv4Addr, network: Ipv4Addr, length: u8) -> bool {
    (address.to_bits() ^ network.to_bits()) >> (32 - length) == 0
}

fn within_v6(address: Ipv6Addr, network: Ipv6Addr, length: u8) -> bool {
    (address.to_bits() ^ network.to_bits()) >> (128 - length) == 0
}

/// Which addresses may be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Every address may be.
    pub allow_private: bool,
    /// Networks that may be beside the public ones.
    pub allowed_networks: Vec<IpNet>,
}

/// The address may not be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} leads only to addresses that are not public, which may not be called")]
pub struct NotAllowed(pub String);

impl NotAllowed {
    /// Whether this is what is behind `error`.
    #[must_use]
    pub fn is_behind(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

impl AddressRules {
    /// Whether `address` may be called. An IPv4 address within an IPv6 one counts as itself for
    /// `allowed_networks`.
    #[must_use]
    pub fn allow(&self, address: IpAddr) -> bool {
        self.allow_private
            || is_public(address)
            || self.allowed_networks.iter().any(|network| {
                network.contains(&address) || network.contains(&address.to_canonical())
            })
    }

    /// Refuses a URL whose host is an address that may not be called. A host that is a name passes:
    /// it is looked at when it is resolved.
    pub fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        let host = url.host_str().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(address) if !self.allow(address) => Err(NotAllowed(host.to_owned())),
            _ => Ok(()),
        }
    }
}

/// Resolves names to the addresses that may be called; an error if there are none.
pub(super) struct GuardedResolver(pub(super) Arc<AddressRules>);

impl fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuardedResolver").field(&self.0).finish()
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|at| rules.allow(at.ip())).collect();
            if allowed.is_empty() {
                return Err(NotAllowed(name.as_str().to_owned()).into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2606:4700:4700::1111",
            "2003::1",
            "2a00:1450::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            // IPv4 within IPv6: mapped, compatible, translated, NAT64 (of any prefix's two), 6to4, Teredo.
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "100::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2620:4f:8000::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn odd_ways_of_writing_an_address_are_that_address() {
        let rules = AddressRules::default();
        for refused in [
            "http://127.0.0.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://017700000001/",
            "http://127.1:8080/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://１２７.０.０.１/",
            "https://169.254.169.254/latest/meta-data",
        ] {
            let url = Url::parse(refused).unwrap();
            assert!(rules.check(&url).is_err(), "{refused}");
        }
        for passed in [
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]/",
            "https://example.com/",
        ] {
            assert!(
                rules.check(&Url::parse(passed).unwrap()).is_ok(),
                "{passed}"
            );
        }
    }

    #[test]
    fn networks_can_be_allowed_and_so_can_all() {
        let rules = AddressRules {
            allow_private: false,
            allowed_networks: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        };
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("fd12::1", true),
            ("fc12::1", false),
            ("127.0.0.1", false),
            ("1.1.1.1", true),
        ] {
            assert_eq!(rules.allow(address.parse().unwrap()), allowed, "{address}");
        }
        let all = AddressRules {
            allow_private: true,
            ..AddressRules::default()
        };
        assert!(all.allow("127.0.0.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_leads_only_inside_is_refused_when_it_is_resolved() {
        let resolver = GuardedResolver(Arc::default());
        let refused = resolver.resolve("localhost".parse().unwrap()).await;
        let error = refused.err().unwrap();
        assert!(NotAllowed::is_behind(&*error), "{error}");
        let rules = AddressRules {
            allow_private: true,
            ..AddressRules::default()
        };
        let resolver = GuardedResolver(Arc::new(rules));
        let found = resolver
            .resolve("localhost".parse().unwrap())
            .await
            .unwrap();
        assert!(found.count() > 0);
    }
}
