//! Machines without a daemon: what they would say to a member.

use std::time::{Duration, Instant};

use base64::Engine as _;
use ichor_lab::{LabError, Node};
use ichor_mesh::crypto::{RealCrypto, Secret};
use ichor_mesh::join::Profile;
use ichor_mesh::join_string::JoinString;
use ichor_mesh::key::PublicKey;
use ichor_mesh::membership::{Membership, Now, Output, Saved};
use ichor_mesh::record::announcement::Announcement;

/// The join string in a configuration.
pub(crate) fn join_string(config: &str) -> JoinString {
    let text = config.lines().nth(1).and_then(|line| line.trim().strip_prefix("join: "));
    JoinString::decode(text.expect("a join string"), &RealCrypto).expect("a valid one")
}

/// The first hello of a machine that has the join string `join`, and the identity `identity`.
pub(crate) fn hello(join: JoinString, identity: u8) -> Vec<u8> {
    let announcement = Announcement {
        sequence: 0,
        wireguard: PublicKey::new([identity; 32]),
        candidates: vec![],
        version: "0".to_owned(),
        capabilities: 0,
        instance: [identity; 8],
        boot: 0,
    };
    let profile = Profile { identity: Secret::new([identity; 32]), name: None, routes: vec![], announcement };
    let now = Now { instant: Instant::now(), clock: None };
    let joining = Membership::join(join, profile, [identity; 32], now, &RealCrypto);
    said_by(&mut joining.expect("a request"), now).remove(0)
}

/// The hellos that `membership` sends at `now`.
fn said_by(membership: &mut Membership, now: Now) -> Vec<Vec<u8>> {
    membership.handle_timeout(now);
    let outputs = std::iter::from_fn(|| membership.poll_output());
    outputs
        .filter_map(|output| if let Output::Hello { datagram, .. } = output { Some(datagram) } else { None })
        .collect()
}

/// What a member that was removed would say: with all that it has on its disk.
pub(crate) async fn hellos_of_removed(node: &Node) -> Result<Vec<Vec<u8>>, LabError> {
    let file = node.run(["base64", "-w0", "/var/lib/ichor/membership"]).await?.stdout;
    let file = base64::engine::general_purpose::STANDARD.decode(file.trim()).expect("base64");
    let head = file.iter().position(|byte| *byte == b'\n').expect("a checksum") + 1;
    let mut saved = Saved::decode(&file[head..], &RealCrypto).expect("a membership");
    // It does not want to know that it was removed.
    saved.items.clear();
    let now = |seconds| Now { instant: Instant::now() + Duration::from_secs(seconds), clock: None };
    let mut membership =
        Membership::resume(saved, [9; 8], [9; 32], now(0), &RealCrypto).expect("a valid genesis");
    let hellos: Vec<_> = (0..10).flat_map(|second| said_by(&mut membership, now(second))).collect();
    assert!(!hellos.is_empty());
    Ok(hellos)
}
