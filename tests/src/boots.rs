//! Start after start of the daemon, with whatever may lie on a disk after a bad day: a damaged configuration, a damaged
//! state, a port that is taken, an environment that makes no sense. It must say how it is within a second, and stay.
//!
//! What a namespace cannot have is tested elsewhere: a missing device in `container.rs`, a clock that was never set in the
//! simulation.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ichor_lab::{LabError, Node};
use ichor_mesh::crypto::{Crypto as _, RealCrypto};
use ichor_mesh::hello::HelloPublic;
use ichor_mesh::record::TokenKey;
use ichor_mesh::record::grant::Grant;
use ichor_mesh::record::name::Role;
use ichorctl::owner::mint::{self, Way};
use ichord::status::{self, State, Status};
use serde::{Deserialize, Serialize};

use crate::probe;
use crate::random::Random;

const CONFIG: &str = "/etc/ichor/boot.yaml";
const STATE: &str = "/var/lib/ichor";
const PORT: u16 = 51840;
/// When to give up waiting; what took longer than a second is a violation all the same.
const PATIENCE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(1);
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Boots {
    /// The same seed damages the same.
    pub seed: u64,
    /// How many starts.
    pub count: u64,
    /// The configuration of a member, with the join string of one that may begin its network.
    pub member: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Starts.
    pub boots: u64,
    /// Starts with a good configuration and identity, and a free port.
    pub good: u64,
    /// Milliseconds from the start to the first status, at most.
    pub slowest_status_ms: u64,
    /// Milliseconds from a good start to interface and address, at most.
    pub slowest_address_ms: u64,
    /// Milliseconds from SIGTERM to the end, at most.
    pub slowest_stop_ms: u64,
    /// What must not be, each with the number of its start.
    pub violations: Vec<String>,
}

/// Starts the ichord of `node` again and again; no other may run there.
///
/// # Errors
/// [`LabError::Failed`].
pub async fn run(node: &Node, boots: Boots) -> Result<Report, LabError> {
    let limit = Duration::from_secs(60 + boots.count);
    let output = node.own_command([probe::boots_argument(boots)]).limit(limit).success().await?;
    serde_json::from_str(&output.stdout)
        .map_err(|error| LabError::failed("read what came of the starts", error))
}

/// The configuration of a member that may begin its network.
///
/// # Panics
/// When the system has no random bytes.
pub fn first_member() -> String {
    let secret = || mint::secret().expect("random bytes");
    let (owner, hello, range) = (secret(), secret(), "10.213.0.0/16".parse().expect("a range"));
    let genesis =
        mint::network("boots".parse().expect("a name"), range, &owner, [1; 16]).expect("a valid genesis");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let grant = Grant {
        token: TokenKey([0; 32]),
        names: "a".parse().expect("a name"),
        role: Role::Worker,
        site: String::new(),
        addresses: Ipv4Addr::new(10, 213, 0, 1).into(),
        routes: Vec::new(),
        uses: 1,
        not_after: now + 3600,
        ephemeral: None,
        replaces: None,
        force: false,
        serial: 1,
        minted: now,
    };
    let way = Way {
        genesis: &genesis,
        hello: HelloPublic(RealCrypto.box_public(&hello)),
        tombstones: 0,
        first_hello: Some(&hello),
        seeds: Vec::new(),
    };
    let join = mint::token(grant, &owner, secret(), way).expect("a valid grant").encode();
    format!("mesh:\n  join: {}\n", &*join)
}

/// The same, in the node.
pub(crate) fn main(boots: &Boots) -> io::Result<()> {
    let mut random = Random::new(boots.seed);
    let good = prepare(&boots.member)?;
    let mut report = Report::default();
    for n in 0..boots.count {
        boot(n, &mut random, &good, &mut report)?;
    }
    serde_json::to_writer(io::stdout(), &report)?;
    Ok(())
}

/// The state directory of a member.
type Files = Vec<(String, Vec<u8>)>;

/// Lets a network begin, and keeps what is on the disk then.
fn prepare(member: &str) -> io::Result<Files> {
    clear()?;
    fs::create_dir_all("/etc/ichor")?;
    fs::write(CONFIG, member)?;
    let mut daemon = start(&[])?;
    let joined = |status: &Status| {
        status.network.as_ref().is_some_and(|network| network.member.is_some())
            && Path::new(STATE).join("membership").exists()
    };
    if until(joined).is_none() {
        return Err(io::Error::other("the network never began"));
    }
    stop(&mut daemon)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(STATE)? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    Ok(files)
}

/// One start.
fn boot(n: u64, random: &mut Random, good: &Files, report: &mut Report) -> io::Result<()> {
    clear()?;
    if random.chance(1, 2) {
        // Otherwise the device of the start before is still there.
        let _ = Command::new("ip").args(["link", "del", "ichor0"]).stderr(Stdio::null()).status()?;
    }
    let has_config = lay_config(random)?;
    let has_state = lay_state(random, good)?;
    let taken = random.chance(1, 8).then(|| UdpSocket::bind(("0.0.0.0", PORT)));
    let is_good = has_config && has_state && taken.is_none();
    let log = *random.pick(&["", "ichord=trace", "a=b=c", "\u{1}", "off", "debug,,"]);
    let began = Instant::now();
    let mut daemon = start(&[("ICHOR_LOG", log)])?;
    report.boots += 1;
    let mut violate = |what: String| report.violations.push(format!("start {n}: {what}"));
    match until(|_| true) {
        Some(_) if began.elapsed() <= LIMIT => {}
        Some(_) => violate(format!("the first status came after {:?}", began.elapsed())),
        None => violate("there is no status".to_owned()),
    }
    report.slowest_status_ms = report.slowest_status_ms.max(millis(began));
    if is_good {
        report.good += 1;
        if until(|status| status.state == State::Running && !status.addresses.is_empty()).is_none()
            || !has_address()?
        {
            violate("a good start has no address".to_owned());
        } else if began.elapsed() > LIMIT {
            violate(format!("a good start has its address after {:?}", began.elapsed()));
        }
        report.slowest_address_ms = report.slowest_address_ms.max(millis(began));
    } else if until(|status| status.state != State::Starting).is_none() {
        violate("the status says nothing but that it starts".to_owned());
    }
    if let Some(status) = daemon.try_wait()? {
        violate(format!("the daemon has ended: {status}"));
        return Ok(());
    }
    let stopped = Instant::now();
    match stop(&mut daemon)? {
        Some(code) if code.success() && stopped.elapsed() <= STOP_LIMIT => {}
        ended => violate(format!("asked to stop: {ended:?} after {:?}", stopped.elapsed())),
    }
    report.slowest_stop_ms = report.slowest_stop_ms.max(millis(stopped));
    Ok(())
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn clear() -> io::Result<()> {
    for path in [CONFIG, STATE] {
        let path = Path::new(path);
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path)?,
            Ok(_) => fs::remove_file(path)?,
            Err(_) => {}
        }
    }
    let _ = fs::remove_file(status::file(Path::new(status::RUNTIME_DIRECTORY)));
    Ok(())
}

/// Puts a configuration there, or what is left of one; whether it is that of a member.
fn lay_config(random: &mut Random) -> io::Result<bool> {
    let good = format!("mesh: {{}}\nlistenPort: {PORT}\n").into_bytes();
    match random.below(12) {
        0 => {}
        1 => fs::create_dir(CONFIG)?,
        2 => fs::write(CONFIG, "")?,
        3 => fs::write(CONFIG, noise(random, 4096))?,
        4 => fs::write(CONFIG, vec![b' '; 5 << 20])?,
        5 => std::os::unix::fs::symlink(CONFIG, CONFIG)?,
        6 => fs::write(CONFIG, "mesh:\n  join: ichor1-AAAA\n")?,
        7 => fs::write(CONFIG, "stateDirectory: /proc/nowhere\nmesh: {}\n")?,
        8 => fs::write(CONFIG, damaged(random, &good))?,
        _ => {
            fs::write(CONFIG, good)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts a state directory there, or what is left of one; whether it is whole.
fn lay_state(random: &mut Random, good: &Files) -> io::Result<bool> {
    match random.below(8) {
        0 => return Ok(false),
        1 => {
            fs::write(STATE, "")?;
            return Ok(false);
        }
        _ => fs::create_dir_all(STATE)?,
    }
    let is_whole = random.chance(1, 2);
    for (name, content) in good {
        let path = Path::new(STATE).join(name);
        match if is_whole { 9 } else { random.below(10) } {
            0 => {}
            1 => fs::create_dir(path)?,
            2 => fs::write(path, "")?,
            3 => fs::write(path, noise(random, 8192))?,
            4..=6 => fs::write(path, damaged(random, content))?,
            _ => fs::write(path, content)?,
        }
    }
    Ok(is_whole)
}

fn noise(random: &mut Random, most: usize) -> Vec<u8> {
    (0..random.below(most)).map(|_| random.bits() as u8).collect()
}

fn damaged(random: &mut Random, content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    if random.chance(1, 2) {
        content.truncate(random.below(content.len()));
    }
    for _ in 0..random.below(4) {
        let at = random.below(content.len());
        if let Some(byte) = content.get_mut(at) {
            *byte ^= 1 << random.below(8);
        }
    }
    content
}

fn start(environment: &[(&str, &str)]) -> io::Result<Child> {
    let mut command = Command::new("ichord");
    command.args(["run", "--config", CONFIG]).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Waits for a status that `is_right`.
fn until(is_right: impl Fn(&Status) -> bool) -> Option<Status> {
    let file = status::file(Path::new(status::RUNTIME_DIRECTORY));
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let status =
            fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<Status>(&text).ok());
        if let Some(status) = status.filter(|status| is_right(status)) {
            return Some(status);
        }
        // Paces the looks.
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Whether the kernel has the address of the one member.
fn has_address() -> io::Result<bool> {
    let shown = Command::new("ip").args(["-o", "address", "show", "dev", "ichor0"]).output()?;
    Ok(String::from_utf8_lossy(&shown.stdout).contains("10.213.0.1/16"))
}

fn stop(daemon: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let pid = rustix::process::Pid::from_child(daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(code) = daemon.try_wait()? {
            return Ok(Some(code));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    daemon.kill()?;
    daemon.wait()?;
    io::stderr().write_all(b"a daemon had to be killed\n")?;
    Ok(None)
}
