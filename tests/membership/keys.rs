//! WireGuard keys that change.

use std::time::Duration;

use ichor_tests::netns::until_succeeds;

use crate::network::{NAMES, assert_whole, until_status_in, with_network};

/// A key is used for that long if nothing else is configured, and a bit more.
const LIFETIME: Duration = Duration::from_secs(31 * 24 * 3600);
/// How long a change and all that follows may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_old_key_is_changed_and_goes_when_all_know_the_new_one_also_who_was_off() {
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        operator.admit_three(lab).await?;
        c.stop().await?;
        a.stop().await?;
        let old = a.status().await?.public_key.expect("a key");
        a.age(LIFETIME).await?;
        a.start().await?;
        let new =
            until_status_in(&a, PATIENCE, |status| status.public_key.as_ref().is_some_and(|key| *key != old));
        let new = new.await?.public_key.expect("a key");
        let knows = |key: String| {
            move |status: &ichord::status::Status| {
                status.peers.iter().any(|peer| peer.public_key == key && peer.connected)
            }
        };
        until_status_in(&b, PATIENCE, knows(new.clone())).await?;
        // It is kept for who was off.
        a.run(["test", "-f", "/var/lib/ichor/previous-private-key"]).await?;
        c.start().await?;
        until_status_in(&c, PATIENCE, knows(new.clone())).await?;
        assert_whole(lab, &NAMES[..3]).await?;
        until_succeeds(&a, "test ! -e /var/lib/ichor/previous-private-key").await?;
        assert_whole(lab, &NAMES[..3]).await?;
        assert_eq!(a.status().await?.public_key, Some(new));
        Ok(())
    });
}
