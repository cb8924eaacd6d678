//! The TUN device. `unsafe` for one ioctl that no crate wraps.

use std::ffi::c_int;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;

use tun_rs::{DeviceBuilder, SyncDevice};

const DEVICE_NODE: &str = "/dev/net/tun";
/// `TUNSETQUEUE` and its flag (`linux/if_tun.h`).
const TUNSETQUEUE: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<c_int>(b'T', 217);
const IFF_DETACH_QUEUE: i16 = 0x0400;

/// Packets that wait in the device while this process is not scheduled. The default of 500 is full after 1.5 ms of
/// small packets; Ethernet devices have this many, and WireGuard in the kernel 1024.
const QUEUE_LEN: u32 = 1000;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunError {
    /// `/dev/net/tun` does not exist.
    #[error(
        "{DEVICE_NODE} does not exist: load the kernel module tun, or pass the device into the container"
    )]
    Missing,
    /// Something else is in its place, such as a directory that a bind mount made.
    #[error("{DEVICE_NODE} is not a character device: the bind mount of the service is wrong")]
    NotADevice,
    /// It could not be opened.
    #[error("failed to open the TUN device {name}")]
    Open {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// One attached queue of a TUN device with offloads.
pub struct Tun {
    device: SyncDevice,
    udp_offload: bool,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun").field("udp_offload", &self.udp_offload).finish_non_exhaustive()
    }
}

/// How the queues of a device are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queues {
    /// The device has this one queue and is gone when it closes, as with other userspace WireGuards.
    Single,
    /// Several processes may hold queues: the device outlives any one of them.
    Shared,
}

impl Tun {
    /// Opens a queue of the device `name`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`TunError`], which says what to do.
    pub fn open(name: &str, queues: Queues) -> Result<Self, TunError> {
        check_device_node()?;
        let failed = |source| TunError::Open { name: name.to_owned(), source };
        let device = DeviceBuilder::new()
            .name(name)
            .multi_queue(queues == Queues::Shared)
            .offload(true)
            .inherit_enable_state()
            .build_sync()
            .map_err(failed)?;
        // The kernel lets only the machine's root set this, not that of a user namespace (SIOCSIFTXQLEN). There
        // its default of 500 packets stays.
        if let Err(error) = device.set_tx_queue_len(QUEUE_LEN) {
            tracing::debug!(name, %error, "the length of the device queue stays as it is");
        }
        device.set_nonblocking(true).map_err(failed)?;
        let udp_offload = device.udp_gso();
        Ok(Self { device, udp_offload })
    }

    /// Whether the device takes UDP super-packets (kernel 6.2).
    pub fn udp_offload(&self) -> bool {
        self.udp_offload
    }

    /// The name that the kernel gave the device, where the one asked for was a pattern such as `wg%d`.
    ///
    /// # Errors
    /// Those of the ioctl `TUNGETIFF`.
    pub fn name(&self) -> io::Result<String> {
        self.device.name()
    }

    /// Makes the device outlive its last queue.
    ///
    /// # Errors
    /// Those of the ioctl `TUNSETPERSIST`.
    pub fn persist(&self) -> io::Result<()> {
        self.device.persist()
    }

    /// Stops the queue: no packet goes to it any more, but while it is open the device keeps its carrier.
    /// Needs [`Queues::Shared`].
    ///
    /// # Errors
    /// Those of the ioctl `TUNSETQUEUE`.
    pub fn into_detached(self) -> io::Result<OwnedFd> {
        set_queue(self.as_fd(), IFF_DETACH_QUEUE)?;
        Ok(rustix::io::fcntl_dupfd_cloexec(&self.device, 0)?)
    }

    /// Reads one packet with its virtio header; `None` when nothing waits.
    ///
    /// # Errors
    /// Those of `read`; the device is gone when it was deleted.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.device, buffer) {
            Ok(len) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes one packet, given as its virtio header and parts.
    ///
    /// # Errors
    /// Those of `writev`.
    #[inline]
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.device, parts)?;
        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// tun-rs makes the node where it is missing; in a container that hides the real fault, a wrong bind mount.
fn check_device_node() -> Result<(), TunError> {
    match std::fs::metadata(DEVICE_NODE) {
        Ok(metadata) if metadata.file_type().is_char_device() => Ok(()),
        Ok(_) => Err(TunError::NotADevice),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TunError::Missing),
        Err(source) => Err(TunError::Open { name: DEVICE_NODE.to_owned(), source }),
    }
}

/// The part of `struct ifreq` (`linux/if.h`) that `TUNSETQUEUE` reads, and its padding.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    padding: [u8; 22],
}

fn set_queue(queue: BorrowedFd<'_>, flags: i16) -> io::Result<()> {
    let request = InterfaceRequest { name: [0; 16], flags, padding: [0; 22] };
    // SAFETY: `TUNSETQUEUE` reads a `struct ifreq`, which is 40 bytes on every Linux target, from the pointer
    // that `Setter` passes, and writes nothing.
    unsafe {
        rustix::ioctl::ioctl(queue, rustix::ioctl::Setter::<TUNSETQUEUE, InterfaceRequest>::new(request))?
    };
    Ok(())
}
