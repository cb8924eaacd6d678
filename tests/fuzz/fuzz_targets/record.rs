//! Any bytes as an item of membership, as a gossip message, as a hello, as what is on a disk and as a join string, at a
//! small roster. Nothing may panic, and
//! nothing is ever installed: neither the fuzzer nor whoever signed the seeds knows the key of the owner.
#![no_main]

use std::cell::RefCell;

use ichor_mesh::crypto::{Crypto as _, RealCrypto, Secret};
use ichor_mesh::gossip::{Gossip, Message};
use ichor_mesh::hello::{HelloKey, HelloKeys};
use ichor_mesh::join_string::JoinString;
use ichor_mesh::membership::Saved;
use ichor_mesh::record::genesis::{Genesis, Owner};
use ichor_mesh::record::{IdentityKey, NetworkId, OwnerKey};
use ichor_mesh::roster::{Item, Roster};
use libfuzzer_sys::fuzz_target;

const NETWORK: NetworkId = NetworkId([3; 32]);

struct Target {
    roster: Roster,
    keys: HelloKeys,
}

thread_local! {
    static TARGET: RefCell<Target> = RefCell::new(Target::new());
}

impl Target {
    fn new() -> Self {
        let owner = OwnerKey(RealCrypto.signing_public(&Secret::new([1; 32])));
        let range = "10.213.0.0/16".parse().expect("a prefix");
        let genesis = Genesis {
            name: "home".parse().expect("a name"),
            range,
            owners: vec![Owner { key: owner, range }],
            nonce: [0; 16],
        };
        let mut keys = HelloKeys::default();
        keys.add(HelloKey { epoch: 0, secret: Secret::new([2; 32]) }, &RealCrypto);
        Self { roster: Roster::new(genesis, NETWORK), keys }
    }
}

fuzz_target!(|data: &[u8]| {
    TARGET.with_borrow_mut(|Target { roster, keys }| {
        if let Ok(item) = Item::open(data, &NETWORK, &RealCrypto) {
            assert_eq!(&item.to_bytes()[..], data, "what is passed on is what came");
            roster.apply(item);
        }
        let now = std::time::Instant::now();
        if let Ok(message) = Message::decode(data) {
            assert_eq!(message.encode(), data, "messages have one encoding");
            Gossip::new(now).handle(IdentityKey([9; 32]), &message, roster, now);
            if let Message::Items(items) = message {
                for item in items.into_iter().filter_map(|item| Item::open(item, &NETWORK, &RealCrypto).ok())
                {
                    roster.apply(item);
                }
            }
        }
        if let Some(received) = keys.open(data, &NETWORK, &RealCrypto) {
            assert!(keys.recognises(data));
            let _ = Item::open(&received.hello.content, &NETWORK, &RealCrypto).map(|item| roster.apply(item));
        }
        assert_eq!(roster.members().count(), 0);
        let _ = Genesis::open(data, &RealCrypto);
        let _ = Saved::decode(data, &RealCrypto);
        let _ = std::str::from_utf8(data).map(|text| JoinString::decode(text, &RealCrypto));
    });
});
