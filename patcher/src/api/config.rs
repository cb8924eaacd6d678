//! Machine configs and client configs.

use std::time::Duration;

use ichor_proto::talos::machine::apply_configuration_request::Mode;
use ichor_proto::talos::machine::{
    ApplyConfiguration, ApplyConfigurationRequest, GenerateClientConfiguration,
    GenerateClientConfigurationRequest,
};

use super::call::machine_service;
use super::{ApiError, Cause, NodeClient, Resource};

/// Type of the resources that hold machine configs.
const MACHINE_CONFIG: &str = "MachineConfigs.config.talos.dev";

/// Which of a node's machine configs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigId {
    /// What the node runs with.
    Active,
    /// What is on its disk: ahead after a staged apply, behind during a try.
    Persistent,
}

/// How a config is applied. There is no default: the zero value of the API is a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyOptions {
    /// What happens with it.
    pub mode: Mode,
    /// Validate and describe only. Cancels the revert of a pending try all the same.
    pub dry_run: bool,
    /// When a try is reverted.
    pub try_timeout: Option<Duration>,
}

impl NodeClient {
    /// Applies a whole machine config.
    ///
    /// # Errors
    ///
    /// Those of every call. A config that the node does not take is [`Cause::Invalid`].
    pub async fn apply_configuration(
        &self,
        config: &[u8],
        options: ApplyOptions,
    ) -> Result<ApplyConfiguration, ApiError> {
        let message = ApplyConfigurationRequest {
            data: config.to_vec(),
            mode: options.mode.into(),
            dry_run: options.dry_run,
            // A time that does not fit is left to the node, which takes a minute.
            try_mode_timeout: options.try_timeout.and_then(|timeout| timeout.try_into().ok()),
        };
        let reply = self.one("ApplyConfiguration", message, |channel, request| async move {
            machine_service(channel).apply_configuration(request).await
        });
        match reply.await {
            Ok(mut reply) => {
                reply.mode_details = without_diff(&reply.mode_details);
                Ok(reply)
            }
            Err(ApiError { node, call, cause: Cause::Invalid(text) }) => {
                Err(ApiError { node, call, cause: Cause::Invalid(without_diff(&text)) })
            }
            Err(error) => Err(error),
        }
    }

    /// One of the node's machine configs, byte for byte in [`Resource::machine_config`].
    ///
    /// # Errors
    ///
    /// Those of every call; [`Cause::NotFound`] when the node has none yet.
    pub async fn machine_config(&self, id: ConfigId) -> Result<Resource, ApiError> {
        let id = match id {
            ConfigId::Active => "v1alpha1",
            ConfigId::Persistent => "persistent",
        };
        self.get("config", MACHINE_CONFIG, id).await
    }

    /// A new client certificate with these roles, from a control plane node.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn generate_client_configuration(
        &self,
        roles: &[String],
        lifetime: Duration,
    ) -> Result<GenerateClientConfiguration, ApiError> {
        let message =
            GenerateClientConfigurationRequest { roles: roles.to_vec(), crt_ttl: lifetime.try_into().ok() };
        self.one("GenerateClientConfiguration", message, |channel, request| async move {
            machine_service(channel).generate_client_configuration(request).await
        })
        .await
    }
}

/// Nodes add a diff of the configs to what they say, with every secret in it. Whoever wants one makes it here.
fn without_diff(text: &str) -> String {
    let starts = ["Config diff:", "\ndiff:", "\n@@", "\n---", "\n+", "\n-"];
    let end = starts.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    text[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_is_cut_before_its_diff() {
        let dry = "Dry run summary:\nApplied configuration without a reboot (skipped in dry-run).\nConfig diff:\n\n-a: secret\n";
        let shown = "Dry run summary:\nApplied configuration without a reboot (skipped in dry-run).";
        assert_eq!(without_diff(dry), shown);
        assert_eq!(
            without_diff("can't be applied in immediate mode\ndiff:   x\n-  token"),
            "can't be applied in immediate mode"
        );
        assert_eq!(without_diff("unknown key: a - b\nsecond line"), "unknown key: a - b\nsecond line");
    }
}
