//! A way into a lab for programs outside of it that know only `ssh -W`.
//!
//! By the name `ssh` this program is a jump host of a lab: what it is told to reach, it reaches from a node. That
//! is how `ichorctl --via ssh://NODE` comes to machines behind the NAT of a lab.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;

use crate::background;
use crate::cli::exec;
use crate::error::{Attempt as _, LabError};
use crate::protocol::SELF;
use crate::reentry::{DIAL, LAB};

/// The name by which this program is a jump host.
pub(crate) const SSH: &str = "ssh";
/// What ssh ends with when it could not connect.
const FAILED: u8 = 255;

/// Does what `ssh -W HOST:PORT NODE` does, where NODE is one of a lab that runs in the background.
pub(crate) fn ssh(args: &[OsString]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(jump(args)),
        Err(error) => Err(LabError::failed("make a runtime", error)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody may be reading.
            let _ = writeln!(io::stderr().lock(), "ssh: {error}");
            ExitCode::from(FAILED)
        }
    }
}

async fn jump(args: &[OsString]) -> Result<u8, LabError> {
    let (target, node) = parse(args)?;
    for name in background::names() {
        let lab = background::join(&name)?;
        if lab.view().await?.nodes.iter().any(|other| other.name == node) {
            let program = [SELF, LAB, DIAL, &target].map(str::to_owned).to_vec();
            return exec::exec(&lab, &node, program).await;
        }
    }
    Err(LabError::Failed { what: format!("reach {node}"), cause: "no lab has such a node".to_owned() })
}

/// What is to be reached, and the node from which. Other flags of ssh mean nothing here.
fn parse(args: &[OsString]) -> Result<(String, String), LabError> {
    let malformed = || LabError::Topology("in a lab, ssh is only -W HOST:PORT NODE".to_owned());
    let text = |arg: Option<&OsString>| arg.and_then(|arg| arg.to_str()).map(str::to_owned);
    let forward = args.iter().position(|arg| arg == "-W").ok_or_else(malformed)?;
    let target = text(args.get(forward + 1)).ok_or_else(malformed)?;
    let node = text(args.last()).filter(|node| *node != target).ok_or_else(malformed)?;
    let node = node.rsplit_once('@').map_or(&*node, |(_, host)| host).to_owned();
    Ok((target, node))
}

/// Connects stdin and stdout with a TCP port, from where this process is.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let target = args.first().and_then(|target| target.to_str()).unwrap_or_default();
    match connect(target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "{error}");
            ExitCode::from(FAILED)
        }
    }
}

fn connect(target: &str) -> Result<(), LabError> {
    let what = || format!("connect to {target}");
    let stream = TcpStream::connect(target).attempt(what)?;
    let mut sender = stream.try_clone().attempt(what)?;
    std::thread::spawn(move || {
        // However it ends, nothing more is sent.
        let _ = pump(&mut io::stdin().lock(), &mut sender);
        let _ = sender.shutdown(Shutdown::Write);
    });
    // When the other side is done, so are we. Stdout must not wait for a line's end.
    let mut stdout = std::fs::File::from(rustix::io::dup(rustix::stdio::stdout()).attempt(what)?);
    pump(&mut &stream, &mut stdout).attempt(what)
}

/// Copies until the end. Each piece goes on before the next is waited for; `io::copy` may hand the work to `splice`,
/// which ended streams early here.
fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_flags_of_ssh_only_the_target_and_the_node_count() {
        let parse = |line: &str| parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).ok();
        let expected = Some(("10.0.0.1:50000".to_owned(), "home-1".to_owned()));
        assert_eq!(parse("-T -W 10.0.0.1:50000 -p 22 -l me -- home-1"), expected);
        assert_eq!(parse("-W 10.0.0.1:50000 me@home-1"), expected);
        assert_eq!(parse("home-1"), None);
        assert_eq!(parse("-W 10.0.0.1:50000"), None);
    }
}
