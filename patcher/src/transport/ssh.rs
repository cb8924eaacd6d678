//! The byte stream of `ssh -W host:port jump`: no key leaves this machine, and nothing listens anywhere.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::endpoint::Endpoint;
use super::error::ConnectError;

/// What is kept of what ssh prints: the end of it, where the reason is.
const MAX_STDERR_BYTES: usize = 4 << 10;

/// How long an ssh that has given up may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One or more jump hosts: `ssh://[user@]host[:port]`, several with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    hops: Vec<Hop>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

/// Text that names no jump host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a jump host: write ssh://[user@]host[:port]")]
pub struct JumpError(String);

impl FromStr for Jump {
    type Err = JumpError;

    fn from_str(text: &str) -> Result<Self, JumpError> {
        let hops = text.split(',').map(|hop| Hop::parse(hop.trim()).ok_or_else(|| JumpError(hop.to_owned())));
        Ok(Self { hops: hops.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hops: Vec<String> = self.hops.iter().map(Hop::to_string).collect();
        f.write_str(&hops.join(","))
    }
}

impl Hop {
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/');
        let (user, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, rest),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '+');
        let user_is_fine =
            |user: &str| !user.is_empty() && !user.starts_with('-') && user.chars().all(is_plain);
        if !user.is_none_or(user_is_fine) {
            return None;
        }
        let has_port = address.parse::<std::net::IpAddr>().is_err()
            && address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let endpoint: Endpoint = address.parse().ok()?;
        let port = has_port.then_some(endpoint.port());
        Some(Self { user: user.map(str::to_owned), host: endpoint.host().to_owned(), port })
    }
}

impl fmt::Display for Hop {
    /// The form that `ssh -J` takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl Jump {
    /// Starts ssh. The stream works before ssh has connected; if it never does, [`Epitaph::read`] says why.
    pub(super) fn open(&self, target: &Endpoint) -> Result<(SshStream, Epitaph), ConnectError> {
        let (last, earlier) = self.hops.split_last().ok_or(ConnectError::SshStart {
            source: io::Error::new(io::ErrorKind::InvalidInput, "no jump host"),
        })?;
        let mut command = Command::new("ssh");
        command.args(["-T", "-W", &target.to_string()]);
        if let Some(port) = last.port {
            command.args(["-p", &port.to_string()]);
        }
        if let Some(user) = &last.user {
            command.args(["-l", user]);
        }
        if !earlier.is_empty() {
            command.args(["-J", &earlier.iter().map(Hop::to_string).collect::<Vec<_>>().join(",")]);
        }
        command.args(["--", &last.host]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| ConnectError::SshStart { source })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(ConnectError::SshStart { source: io::ErrorKind::BrokenPipe.into() });
        };
        let words = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::spawn(listen(stderr, words.clone()));
        let epitaph = Epitaph { jump: self.to_string(), words, listener };
        Ok((SshStream { stdin, stdout, _child: child }, epitaph))
    }
}

/// Standard input and output of an ssh that forwards to one host and port. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct SshStream {
    stdin: ChildStdin,
    stdout: ChildStdout,
    _child: Child,
}

/// What an ssh that failed had to say.
#[derive(Debug)]
pub(super) struct Epitaph {
    jump: String,
    words: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Epitaph {
    /// The error of an ssh whose stream ended early. The stream must be dropped by then.
    pub(super) async fn read(self, otherwise: String) -> ConnectError {
        // Past the limit the words so far have to do.
        let _ = tokio::time::timeout(LAST_WORDS, self.listener).await;
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&words);
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(crate::output::escape).collect();
        let stderr = if lines.is_empty() { otherwise } else { lines.join("; ") };
        ConnectError::Ssh { jump: self.jump, stderr }
    }
}

async fn listen(mut stderr: ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&buffer[..count]);
        let excess = words.len().saturating_sub(MAX_STDERR_BYTES);
        words.drain(..excess);
    }
}

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(context, buffer)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_hosts_are_written_as_ssh_writes_them() {
        for (text, shown) in [
            ("ssh://jump", "jump"),
            ("jump", "jump"),
            ("ssh://alice@jump:2222/", "alice@jump:2222"),
            ("ssh://[2001:db8::1]:22", "[2001:db8::1]:22"),
            ("ssh://2001:db8::1", "[2001:db8::1]"),
            ("ssh://a@one, ssh://b@two:2", "a@one,b@two:2"),
        ] {
            assert_eq!(text.parse::<Jump>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_ssh_could_take_for_an_option_is_refused() {
        for text in
            ["", "ssh://", "-oProxyCommand=x", "ssh://-l@x", "ssh://a b@x", "ssh://x:0", "x,,y", "ssh://@x"]
        {
            assert!(text.parse::<Jump>().is_err(), "{text:?}");
        }
    }
}
