//! Links with loss, delay and the like, without tc: netem is not in every kernel.
//!
//! Such a link is a TAP device at each end and a thread that carries frames between them. Its limits: about
//! half a million packets a second on a current core, so a fast link is carried slower than by a veth; timing
//! to about 0.1 ms; offloads end at the devices, so large TCP segments are cut by the kernel before they enter.

mod line;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use self::line::Line;
use crate::error::{Attempt as _, LabError};
use crate::protocol::ShapeCounters;
use crate::topology::Shape;

/// Longest frame: the largest MTU that a TAP takes, and its Ethernet header.
const MAX_FRAME: usize = 65_536 + 14;
/// Frames taken from one side before the other gets its turn.
const BURST: usize = 64;
/// Packets that wait in a device while the thread is busy.
const DEVICE_QUEUE: u32 = 4096;

/// One end of a shaped link.
pub(crate) struct Tap(SyncDevice);

impl Tap {
    /// Makes the device `name` in the network namespace of the calling thread.
    pub(crate) fn make(name: &str) -> Result<Self, LabError> {
        let what = || format!("make the device {name}");
        let device = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L2)
            .inherit_enable_state()
            .build_sync()
            .attempt(what)?;
        // The kernel lets only the machine's root set this, not that of a user namespace. There its default stays.
        let _refused = device.set_tx_queue_len(DEVICE_QUEUE);
        device.set_nonblocking(true).attempt(what)?;
        Ok(Self(device))
    }
}

/// A shaped link. Its devices vanish when this is dropped.
pub(crate) struct Shaper {
    lines: Arc<Mutex<[Line; 2]>>,
    stop: Arc<OwnedFd>,
}

impl Shaper {
    /// Connects two devices.
    pub(crate) fn start(taps: [Tap; 2], shape: Shape, seed: u64) -> Result<Self, LabError> {
        let what = || "start the thread of a link".to_owned();
        let lines = [Line::new(shape, seed), Line::new(shape, seed ^ u64::MAX)];
        let lines = Arc::new(Mutex::new(lines));
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).attempt(what)?;
        let shaper = Self { lines: Arc::clone(&lines), stop: Arc::new(stop) };
        let stop = Arc::clone(&shaper.stop);
        std::thread::Builder::new()
            .name("shaper".into())
            .spawn(move || {
                if let Err(error) = carry(&taps, &lines, &stop) {
                    tracing::error!(%error, "a shaped link broke");
                }
            })
            .attempt(what)?;
        Ok(shaper)
    }

    /// Shapes the link anew. What is on the way stays as it is.
    pub(crate) fn set(&self, shape: Shape) {
        for line in self.lines().iter_mut() {
            line.shape = shape;
        }
    }

    /// What the link did so far.
    pub(crate) fn counters(&self) -> ShapeCounters {
        let lines = self.lines();
        let [a, b] = [lines[0].counters, lines[1].counters];
        ShapeCounters {
            forwarded: a.forwarded + b.forwarded,
            lost: a.lost + b.lost,
            overflowed: a.overflowed + b.overflowed,
            oversized: a.oversized + b.oversized,
            duplicated: a.duplicated + b.duplicated,
            marked: a.marked + b.marked,
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, [Line; 2]> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        // The counter cannot be full: nobody else adds to it.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

fn carry(taps: &[Tap; 2], lines: &Mutex<[Line; 2]>, stop: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let next = {
            let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().filter_map(Line::next).min()
        };
        let timeout = next.map(|at| {
            let wait = at.saturating_duration_since(Instant::now()).min(Duration::from_secs(60));
            Timespec::try_from(wait).unwrap_or_default()
        });
        let mut waiting = [
            PollFd::from_borrowed_fd(taps[0].0.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(taps[1].0.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut waiting, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !waiting[2].revents().is_empty() {
            return Ok(());
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, to) in [(0, 1), (1, 0)] {
            for _ in 0..BURST {
                match rustix::io::read(&taps[from].0, &mut buffer[..]) {
                    Ok(len) => lines[from].offer(Instant::now(), &buffer[..len]),
                    Err(rustix::io::Errno::AGAIN) => break,
                    // The device is down: nothing comes or goes.
                    Err(rustix::io::Errno::IO | rustix::io::Errno::BADFD) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            while let Some(frame) = lines[from].take(Instant::now()) {
                // A device that is down, or whose host cannot take more, loses frames as a cable does.
                let _ = rustix::io::write(&taps[to].0, &frame);
            }
        }
    }
}
