//! The gRPC vocabulary of Ichor. Generated code, committed; no logic.
//!
//! [`talos`] is the part of the Talos API that Ichor speaks. `proto/talos/README.md` says where its facts come
//! from, and `tests/bootstrap.rs` keeps the generated code equal to the `.proto` files.
//!
//! Messages that carry keys, configs or other secrets print their length only in `Debug`.

mod redact;

/// Messages, clients and (with the feature `server`) server traits of the Talos API.
pub mod talos {
    crate::messages!(
        /// What the other packages share.
        common, "gen/common.rs"
    );
    crate::services!(
        /// The services that a node has: machine, lifecycle, images, debug.
        machine, "gen/machine.rs"
    );
    crate::services!(
        /// Health checks over a cluster.
        cluster, "gen/cluster.rs"
    );
    crate::services!(
        /// The clock of a node.
        time, "gen/time.rs"
    );
    crate::services!(
        /// Controllers of a node.
        inspect, "gen/inspect.rs"
    );
    crate::services!(
        /// Disks of a node.
        storage, "gen/storage.rs"
    );

    /// The COSI runtime.
    pub mod cosi {
        crate::services!(
            /// Resources and the service that reads them.
            resource, "gen/cosi.resource.rs"
        );
    }

    /// Specs of resources.
    pub mod resource {
        /// Specs of the resources of a machine config.
        pub mod config {
            include!("gen/resource.config.rs");
        }
    }

    /// Messages of Google that are not part of protobuf itself.
    pub mod google {
        crate::messages!(
            /// Errors as values.
            rpc, "gen/google.rpc.rs"
        );
    }
}

/// Declares a module of generated messages. They are documented in the `.proto` files, as far as names do not say
/// it all.
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[expect(missing_docs, reason = "generated")]
        pub mod $name {
            include!($file);
        }
    };
}

/// Declares a module of generated messages and services.
macro_rules! services {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[expect(missing_docs, unused_qualifications, clippy::allow_attributes_without_reason, reason = "generated")]
        pub mod $name {
            include!($file);
        }
    };
}

pub(crate) use messages;
pub(crate) use services;
