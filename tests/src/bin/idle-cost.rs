//! `idle-cost [MEMBERS [SECONDS [ICHORD]]]`: memory and processor time of a real ichord in a network where nothing happens.
//!
//! All members are there, each with an ichord of its own, and the figures are the mean of all. With `--alone` the others are
//! records of one ichord, which looks for them in vain: it costs more, as after the power came back in one place only.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use ichor_lab::{Daemon, Family, Lab, LabError, Membership as How, Nat, Node, NodeSpec, Site, Topology};
use ichor_mesh::crypto::{Crypto as _, RealCrypto, Secret};
use ichor_mesh::hello::HelloPublic;
use ichor_mesh::join::{Profile, Via};
use ichor_mesh::join_string::JoinString;
use ichor_mesh::key::SecretKey;
use ichor_mesh::membership::{Membership, Now, Output};
use ichor_mesh::record::announcement::Announcement;
use ichor_mesh::record::grant::Grant;
use ichor_mesh::record::name::Role;
use ichor_mesh::record::{Envelope, TokenKey};
use ichor_tests::netns::block_on;
use ichorctl::owner::mint::{self, Way};
use ichord::status::Status;

/// Waits before it is looked at the first time: it has started, and called those that it wants.
const SETTLE: Duration = Duration::from_secs(30);
/// Bytes that are written into the node at once.
const PART: usize = 32 << 10;
/// Nodes of a network segment: of all namespaces together a kernel knows 1,024 neighbours (`gc_thresh3`).
const SITE: u16 = 5;
/// Clock ticks of a second, on every Linux that this runs on.
const TICKS: f64 = 100.0;
/// Resident kilobytes, and ticks in user and kernel mode, of each process of the daemon.
const LOOK: &str = "for d in /proc/[0-9]*; do c=$(tr '\\0' ' ' < $d/cmdline 2>/dev/null); case \"$c\" in \
    *'run --config'*|*'run --worker'*) echo $(grep VmRSS $d/status | tr -dc 0-9) $(cut -d' ' -f14,15 $d/stat);; \
    esac; done";

/// A network that is begun, and what it takes to let somebody in.
struct Network {
    genesis: Envelope,
    owner: Secret,
    hello: Secret,
    clock: u64,
    began: Instant,
}

impl Network {
    fn new() -> Self {
        let secret = || mint::secret().expect("random bytes");
        let (owner, hello, range) = (secret(), secret(), "10.213.0.0/16".parse().expect("a range"));
        let name = "idle".parse().expect("a name");
        let genesis = mint::network(name, range, &owner, [1; 16]).expect("a valid genesis");
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { genesis, owner, hello, clock, began: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Now {
        Now { instant: self.began + Duration::from_secs(seconds), clock: Some(self.clock + seconds) }
    }

    fn token(&self, n: u16, seeds: Vec<SocketAddr>) -> JoinString {
        let [high, low] = n.to_be_bytes();
        let grant = Grant {
            token: TokenKey([0; 32]),
            names: format!("n-{n}").parse().expect("a name"),
            role: Role::Worker,
            site: String::new(),
            addresses: Ipv4Addr::new(10, 213, high, low).into(),
            routes: Vec::new(),
            uses: 1,
            not_after: self.clock + 3600,
            ephemeral: None,
            replaces: None,
            force: false,
            serial: n.into(),
            minted: self.clock,
        };
        let way = Way {
            genesis: &self.genesis,
            hello: HelloPublic(RealCrypto.box_public(&self.hello)),
            tombstones: 0,
            first_hello: (n == 1).then_some(&self.hello),
            seeds,
        };
        mint::token(grant, &self.owner, mint::secret().expect("random bytes"), way).expect("a valid grant")
    }

    fn joining(&self, n: u16) -> Membership {
        let [high, low] = n.to_be_bytes();
        let secret = mint::secret().expect("random bytes");
        let announcement = Announcement {
            sequence: 0,
            wireguard: SecretKey::from_random(*secret.expose()).public(),
            // For documentation (RFC 5737): nobody is there.
            candidates: vec![SocketAddr::from(([198, 51, 100 + high % 8, low], 51840))],
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: 0,
            instance: [low; 8],
            boot: 0,
        };
        let identity = mint::secret().expect("random bytes");
        let profile = Profile { identity, name: None, routes: Vec::new(), announcement };
        let seed = *mint::secret().expect("random bytes").expose();
        Membership::join(self.token(n, Vec::new()), profile, seed, self.at(0), &RealCrypto)
            .expect("a valid join string")
    }
}

/// What the first of `members` members has on its disk.
fn membership_file(members: u16) -> Vec<u8> {
    let network = Network::new();
    let mut first = network.joining(1);
    for second in 0..60 {
        first.handle_timeout(network.at(second));
    }
    assert!(first.is_member(), "the first one begins the network");
    while first.poll_output().is_some() {}
    for n in 2..=members {
        let mut joiner = network.joining(n);
        joiner.handle_timeout(network.at(60));
        let request = std::iter::from_fn(|| joiner.poll_output()).find_map(|output| match output {
            Output::Hello { datagram, .. } => Some(datagram),
            _ => None,
        });
        let admitted = first.handle_hello(&request.expect("a request"), Via::Unicast, network.at(60));
        assert!(admitted.is_some(), "member {n} is let in");
        while first.poll_output().is_some() {}
    }
    assert_eq!(first.roster().members().count(), usize::from(members));
    let content = first.saved().expect("it is a member").encode(&RealCrypto).expect("it fits");
    ichord::state_file(&content)
}

/// Resident KiB and seconds of processor time of the daemon, parent and worker together.
async fn look(node: &Node) -> Result<(u64, f64), LabError> {
    let seen = node.run(["sh", "-c", LOOK]).await?.stdout;
    let (mut resident, mut ticks) = (0, 0);
    for line in seen.lines() {
        let numbers: Vec<u64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
        resident += numbers.first().copied().unwrap_or(0);
        ticks += numbers.iter().skip(1).sum::<u64>();
    }
    Ok((resident, ticks as f64 / TICKS))
}

/// One ichord that knows `members`, of which none is there.
async fn alone(members: u16, program: Option<PathBuf>) -> Result<Lab, LabError> {
    let lab = lab(1).await?;
    let node = lab.node(&name(1));
    node.stop().await?;
    node.set_daemon(Daemon { program, environment: Vec::new() }).await?;
    node.run(["sh", "-c", "rm -rf /var/lib/ichor && mkdir -m 700 /var/lib/ichor"]).await?;
    // A lab hands over no more than a pipe holds at once.
    for part in membership_file(members).chunks(PART) {
        node.command(["sh", "-c", "cat >> /var/lib/ichor/membership"]).input(part).success().await?;
    }
    node.write_config("mesh: {}\n").await?;
    node.start().await?;
    until_known(&node, members).await?;
    Ok(lab)
}

/// As many as there are members, which let each other in.
async fn together(members: u16, program: Option<PathBuf>) -> Result<Lab, LabError> {
    let (lab, network) = (lab(members).await?, Network::new());
    let first = SocketAddr::new(lab.node(&name(1)).view().await?.underlay.ip(Family::V4), 51840);
    for n in 1..=members {
        let node = lab.node(&name(n));
        node.stop().await?;
        node.set_daemon(Daemon { program: program.clone(), environment: Vec::new() }).await?;
        let join = network.token(n, vec![first]).encode();
        node.write_config(&format!("mesh:\n  join: {}\n", *join)).await?;
        node.start().await?;
        // One after the other: this machine has to carry all of them.
        until_known(&node, n).await?;
    }
    for n in 1..=members {
        until_known(&lab.node(&name(n)), members).await?;
    }
    Ok(lab)
}

fn name(n: u16) -> String {
    format!("n-{n}")
}

async fn lab(nodes: u16) -> Result<Lab, LabError> {
    let site = |first: u16| {
        let mut site = Site::new(format!("site-{first}"), Nat::None);
        site.nodes = (first..(first + SITE).min(nodes + 1)).map(|n| NodeSpec::new(name(n))).collect();
        site
    };
    let sites = (1..=nodes).step_by(usize::from(SITE)).map(site).collect();
    let topology = Topology { sites, membership: How::Tokens, ..Topology::default() };
    Lab::builder().topology(topology).up().await
}

async fn until_known(node: &Node, members: u16) -> Result<(), LabError> {
    let knows = |status: &Status| {
        status.network.as_ref().is_some_and(|network| network.members == usize::from(members))
    };
    node.until_status("to know all members", knows).await.map(drop)
}

#[expect(clippy::print_stdout, reason = "the output of a program")]
async fn run(args: Args) -> Result<(), LabError> {
    let Args { members, seconds, ichord, is_alone } = args;
    let (lab, nodes) = match is_alone {
        true => (alone(members, ichord).await?, 1),
        false => (together(members, ichord).await?, members),
    };
    let node = lab.node(&name(1));
    tokio::time::sleep(SETTLE).await;
    let (_, before) = look(&node).await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (resident, after) = look(&node).await?;
    let share = (after - before) / seconds as f64 * 100.0 / f64::from(nodes);
    println!(
        "{members} members, {nodes} of them here, {seconds} s: each {:.1} MiB resident, {share:.2} % of a core",
        resident as f64 / 1024.0 / f64::from(nodes)
    );
    lab.down().await
}

/// Memory and processor time of a real ichord in a network where nothing happens.
#[derive(Debug, Parser)]
struct Args {
    /// How many members there are
    #[arg(default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    members: u16,
    /// For how long they are looked at
    #[arg(default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The ichord [default: the one in this program, which is built as this is]
    ichord: Option<PathBuf>,
    /// Only one is there
    #[arg(long = "alone")]
    is_alone: bool,
}

#[expect(clippy::print_stderr, reason = "the output of a program")]
fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = ichor_lab::reenter(&args) {
        return code;
    }
    match block_on(run(Args::parse_from(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
