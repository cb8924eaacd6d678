//! The kernel's side of a lab: links, addresses and routes by rtnetlink, NAT and filters by nftables, both over
//! netlink. No program is called.

pub(crate) mod link;
pub(crate) mod nat;
pub(crate) mod nft;
