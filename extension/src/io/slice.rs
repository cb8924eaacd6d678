//! How long the data plane computes at a stretch when others want the processor, too.
//!
//! The scheduler gives every thread slices of about 3 ms. On a busy machine packets then pile up behind whatever else
//! runs, and leave in bursts that overflow the receivers' socket buffers. With a short slice the data plane gets
//! no more of the processor, but gets it sooner and more often.

use std::io;

/// The shortest slice that the scheduler grants.
const SLICE_NANOS: u64 = 100_000;

/// `struct sched_attr` in its first version (`sched_setattr(2)`).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = size_of::<SchedAttr>() as u32;

/// Asks for short slices for this thread, and leaves its policy and its share as they are. Kernels before 6.12 accept
/// and ignore it.
///
/// # Errors
/// Those of `sched_getattr(2)` and `sched_setattr(2)`, for example because a seccomp filter bars them.
pub(crate) fn shorten() -> io::Result<()> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most `SIZE` bytes to the pointer, which is a `SchedAttr` of that size. 0 is this
    // thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, SIZE, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // Other policies give the field another meaning.
    if attr.policy != libc::SCHED_OTHER as u32 && attr.policy != libc::SCHED_BATCH as u32 {
        return Ok(());
    }
    attr.size = SIZE;
    attr.runtime = SLICE_NANOS;
    // SAFETY: the kernel reads `attr.size` bytes from the pointer. 0 is this thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_shorten_its_own_slices_again_and_again() {
        std::thread::spawn(|| {
            shorten().unwrap();
            shorten().unwrap();
        })
        .join()
        .unwrap();
    }
}
