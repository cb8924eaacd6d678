//! Facts about a node.

use ichor_proto::talos::machine::{CpUsInfo, Hostname, Memory, SystemStat, Version};

use super::call::machine_service;
use super::{ApiError, Capabilities, Cause, NodeClient, TalosVersion};

impl NodeClient {
    /// Version, platform and features.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn version(&self) -> Result<Version, ApiError> {
        self.one(
            "Version",
            (),
            |channel, request| async move { machine_service(channel).version(request).await },
        )
        .await
    }

    /// The version of Talos, parsed.
    ///
    /// # Errors
    ///
    /// Those of every call, and [`Cause::Malformed`] when the tag is no version.
    pub async fn talos_version(&self) -> Result<TalosVersion, ApiError> {
        let tag = self.version().await?.version.unwrap_or_default().tag;
        tag.parse().map_err(|error| self.error("Version", Cause::Malformed(format!("{error}"))))
    }

    /// What the node can do.
    ///
    /// # Errors
    ///
    /// As [`NodeClient::talos_version`].
    pub async fn capabilities(&self) -> Result<Capabilities, ApiError> {
        Ok(Capabilities::of(self.talos_version().await?))
    }

    /// The host name.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn hostname(&self) -> Result<Hostname, ApiError> {
        self.one("Hostname", (), |channel, request| async move {
            machine_service(channel).hostname(request).await
        })
        .await
    }

    /// Memory as /proc/meminfo has it.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn memory(&self) -> Result<Memory, ApiError> {
        self.one(
            "Memory",
            (),
            |channel, request| async move { machine_service(channel).memory(request).await },
        )
        .await
    }

    /// Processors.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn cpu_info(&self) -> Result<CpUsInfo, ApiError> {
        self.one(
            "CPUInfo",
            (),
            |channel, request| async move { machine_service(channel).cpu_info(request).await },
        )
        .await
    }

    /// Boot time and counters of the kernel.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn system_stat(&self) -> Result<SystemStat, ApiError> {
        self.one("SystemStat", (), |channel, request| async move {
            machine_service(channel).system_stat(request).await
        })
        .await
    }
}
