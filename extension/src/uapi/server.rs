//! The socket that `wg(8)` connects to.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use super::apply::Secrets;
use super::request::{Request, SetRequest};
use crate::driver::{Driver, DriverHandle};

const DIRECTORY: &str = "/var/run/wireguard";
/// Longest request: the configuration of about 100,000 peers.
const MAX_REQUEST: u64 = 32 << 20;
/// A client that stops in the middle of a request holds a task for this long.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where `wg(8)` looks for `interface`.
pub fn socket_path(interface: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{interface}.sock"))
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another process answers on it.
    #[error("{path} is in use: another program runs this interface")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("failed to listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `wg` configures the interface.
    Full,
    /// The interface is configured from elsewhere: `wg show` works, changes are refused, keys are hidden.
    ReadOnly,
}

/// Serves one interface. The socket is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    access: Access,
}

impl Server {
    /// Starts to listen at `path`, whose directory is made if needed. A socket that nobody answers on is
    /// replaced.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(path: PathBuf, access: Access) -> Result<Self, ServeError> {
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(ServeError::InUse { path });
        }
        match listen(&path) {
            Ok(listener) => Ok(Self { listener, path, access }),
            Err(source) => Err(ServeError::Listen { path, source }),
        }
    }

    /// Answers clients until the driver ends.
    pub async fn serve(&self, driver: &DriverHandle) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (driver, access) = (driver.clone(), self.access);
                    tokio::spawn(async move {
                        let served = tokio::time::timeout(CLIENT_TIMEOUT, converse(stream, &driver, access));
                        match served.await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%error, "uapi client"),
                            Err(_elapsed) => tracing::debug!("uapi client took too long"),
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors: let some clients finish.
                    tracing::warn!(%error, "accepting a uapi client failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; a successor replaces what is left.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Whoever can connect can read the private key.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests until the client closes.
async fn converse(stream: UnixStream, driver: &DriverHandle, access: Access) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    loop {
        let mut request = Zeroizing::new(String::new());
        loop {
            let start = request.len();
            if reader.read_line(&mut request).await? == 0 {
                // A request may also end with the stream.
                if request.trim().is_empty() {
                    return Ok(());
                }
                break;
            }
            if request[start..] == *"\n" {
                request.truncate(start);
                break;
            }
        }
        if request.is_empty() {
            continue;
        }
        let answer = answer(&request, driver, access).await;
        writer.write_all(answer.as_bytes()).await?;
        reader.get_mut().set_limit(MAX_REQUEST);
    }
}

async fn answer(request: &str, driver: &DriverHandle, access: Access) -> Zeroizing<String> {
    let outcome = match Request::parse(request) {
        Ok(Request::Get) => {
            let secrets = match access {
                Access::Full => Secrets::Shown,
                Access::ReadOnly => Secrets::Hidden,
            };
            driver
                .call(move |driver: &mut Driver| super::describe(driver, secrets))
                .await
                .map_err(|_gone| libc::EIO)
        }
        Ok(Request::Set(_)) if access == Access::ReadOnly => Err(libc::EROFS),
        Ok(Request::Set(set)) => apply(*set, driver).await.map(|()| String::new()),
        Err(error) => {
            tracing::debug!(%error, "uapi request refused");
            Err(libc::EINVAL)
        }
    };
    Zeroizing::new(match outcome {
        Ok(text) => format!("{text}errno=0\n\n"),
        Err(errno) => format!("errno={}\n\n", -errno),
    })
}

async fn apply(set: SetRequest, driver: &DriverHandle) -> Result<(), i32> {
    let applied = driver.call(move |driver: &mut Driver| super::execute(driver, set)).await;
    match applied {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
        Err(_gone) => Err(libc::EIO),
    }
}
