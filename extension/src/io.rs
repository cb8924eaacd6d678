//! Where bytes meet the kernel: the TUN device, the UDP sockets, netlink.

pub(crate) mod checksum;
pub(crate) mod netlink;
pub(crate) mod offload;
pub(crate) mod slice;
pub mod tun;
pub(crate) mod udp;
pub(crate) mod watch;
